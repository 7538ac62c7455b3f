//! Ops as the JSON of protobuf messages, which typed errors on the wire hold.

use serde_json::{Map, Value};

use crate::Op;
use crate::json::op_to_json;

/// What a `oneof` is called where Go's encoder writes it; in protobuf's JSON its only field stands in its place.
const ONE_OF: [&str; 3] = ["Op", "Action", "User"];

/// One op in the JSON of protobuf messages, without digest and metadata.
pub fn op_to_proto_json(op: &Op) -> Value {
    // What we write ourselves can be read.
    flattened(serde_json::from_str(&op_to_json(op)).unwrap_or_default())
}

/// As deep as an op is, which is a handful.
fn flattened(json: Value) -> Value {
    match json {
        Value::Array(items) => items.into_iter().map(flattened).collect(),
        Value::Object(fields) => {
            let mut flat = Map::with_capacity(fields.len());
            for (name, value) in fields {
                match flattened(value) {
                    Value::Object(only) if ONE_OF.contains(&name.as_str()) => flat.extend(only),
                    value => {
                        let name = if name == "byId" { "byID".to_owned() } else { name };
                        flat.insert(name, value);
                    }
                }
            }
            Value::Object(flat)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use rbuild_api::pb;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_kinds_of_ops_and_actions_are_plain_fields() {
        let owner = pb::ChownOpt {
            user: Some(pb::UserOpt { user: Some(pb::user_opt::User::ById(7)) }),
            ..pb::ChownOpt::default()
        };
        let mkdir = pb::FileActionMkDir {
            path: "/a".into(),
            mode: 0o755,
            owner: Some(owner),
            ..pb::FileActionMkDir::default()
        };
        let action = pb::FileAction {
            input: 0,
            secondary_input: -1,
            output: 0,
            action: Some(pb::file_action::Action::Mkdir(mkdir)),
        };
        let op = pb::Op {
            inputs: vec![pb::Input { digest: rbuild_digest::Digest::of("x").to_string(), index: 0 }],
            op: Some(pb::op::Op::File(pb::FileOp { actions: vec![action] })),
            ..pb::Op::default()
        };
        let json = op_to_proto_json(&Op::from_wire(op).unwrap());
        let mkdir = &json["file"]["actions"][0]["mkdir"];
        assert_eq!(mkdir["path"], "/a");
        assert_eq!(mkdir["owner"]["user"], json!({"byID": 7}));
    }
}
