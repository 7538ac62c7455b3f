//! Protobuf bytes as Go writes them, where prost writes others.
//!
//! Both write fields by number, leave defaults out and sort maps. They differ in two things:
//! - Go writes the members of a oneof after all other fields, so that an op's kind (numbers 2 to 8) stands behind
//!   its platform and constraints (10, 11). The other oneofs have the highest numbers of their message anyway.
//! - Go always writes key and value of a map entry, prost leaves empty ones out. Maps occur in source and build
//!   ops only, so these two are written by hand.

use std::collections::BTreeMap;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use rbuild_api::pb;

/// The bytes that an op's digest is taken of.
pub(crate) fn op_bytes(op: &pb::Op) -> Vec<u8> {
    let common = pb::Op {
        inputs: op.inputs.clone(),
        platform: op.platform.clone(),
        constraints: op.constraints.clone(),
        op: None,
    };
    let mut bytes = common.encode_to_vec();
    match &op.op {
        Some(pb::op::Op::Source(source)) => put_bytes(&mut bytes, 3, &source_bytes(source)),
        Some(pb::op::Op::Build(build)) => put_bytes(&mut bytes, 5, &build_bytes(build)),
        Some(kind) => kind.encode(&mut bytes),
        None => {}
    }
    bytes
}

fn source_bytes(source: &pb::SourceOp) -> Vec<u8> {
    let head = pb::SourceOp { identifier: source.identifier.clone(), attrs: BTreeMap::new() };
    let mut bytes = head.encode_to_vec();
    put_text_map(&mut bytes, 2, &source.attrs);
    bytes
}

fn build_bytes(build: &pb::BuildOp) -> Vec<u8> {
    let head = pb::BuildOp { builder: build.builder, ..pb::BuildOp::default() };
    let middle = pb::BuildOp { def: build.def.clone(), ..pb::BuildOp::default() };
    let mut bytes = head.encode_to_vec();
    for (name, input) in &build.inputs {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, name.as_bytes());
        put_bytes(&mut entry, 2, &input.encode_to_vec());
        put_bytes(&mut bytes, 2, &entry);
    }
    bytes.extend(middle.encode_to_vec());
    put_text_map(&mut bytes, 4, &build.attrs);
    bytes
}

fn put_text_map(bytes: &mut Vec<u8>, tag: u32, map: &BTreeMap<String, String>) {
    for (key, value) in map {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, key.as_bytes());
        put_bytes(&mut entry, 2, value.as_bytes());
        put_bytes(bytes, tag, &entry);
    }
}

fn put_bytes(bytes: &mut Vec<u8>, tag: u32, value: &[u8]) {
    let length = value.len() as u64;
    bytes.reserve(key_len(tag) + encoded_len_varint(length) + value.len());
    encode_key(tag, WireType::LengthDelimited, bytes);
    encode_varint(length, bytes);
    bytes.extend_from_slice(value);
}
