//! A definition for readers of provenance: its ops as numbered steps, in JSON.
//!
//! Source: the shape is that of upstream's provenance, as its images have it (`buildConfig` and `source`).

use std::collections::{BTreeMap, HashMap};

use prost::Message;
use rbuild_api::pb;
use rbuild_digest::Digest;

use crate::json::{self, Object, quoted};
use crate::{Definition, LlbError, SourceInfo, SourceMap};

/// Attributes of directories that say which client's they are: of no use to anyone else, as upstream has it.
const CLIENTS: [&str; 2] = ["local.session", "local.unique"];

/// Takes out of a source, an argument or a variable what nobody may read, such as passwords in URLs.
pub type Redact = fn(&str) -> String;

/// A definition's ops with numbers: inputs before their users, the terminal last.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    /// `step<n>` by vertex.
    names: BTreeMap<Digest, String>,
    ops: Vec<(Digest, pb::Op)>,
}

impl Steps {
    /// Numbers what the terminal needs.
    ///
    /// Errors: [`LlbError::Decode`] for an op that isn't one, [`LlbError::MissingInput`].
    pub fn of(definition: &Definition, redact: Redact) -> Result<Self, LlbError> {
        let mut ops = HashMap::with_capacity(definition.ops.len());
        let mut last = None;
        for (index, bytes) in definition.ops.iter().enumerate() {
            let mut op =
                pb::Op::decode(bytes.as_ref()).map_err(|source| LlbError::Decode { index, source })?;
            match &mut op.op {
                Some(pb::op::Op::Source(source)) => {
                    source.identifier = redact(&source.identifier);
                    source.attrs.retain(|name, _| !CLIENTS.contains(&name.as_str()));
                    source.attrs.values_mut().for_each(|value| *value = redact(value));
                }
                Some(pb::op::Op::Exec(exec)) => {
                    let meta = exec.meta.iter_mut();
                    let texts = meta.flat_map(|meta| meta.args.iter_mut().chain(&mut meta.env));
                    texts.for_each(|text| *text = redact(text));
                }
                _ => {}
            }
            let digest = Digest::of(bytes);
            ops.insert(digest, op);
            last = Some(digest);
        }
        let mut steps = Self::default();
        if let Some(terminal) = last {
            steps.number(terminal, ops)?;
        }
        Ok(steps)
    }

    /// Depth first without recursion: graphs are deeper than stacks. An op waits on the stack until its inputs have
    /// their numbers.
    fn number(&mut self, terminal: Digest, mut ops: HashMap<Digest, pb::Op>) -> Result<(), LlbError> {
        let mut waiting = vec![(terminal, 0)];
        let mut entered = std::collections::HashSet::from([terminal]);
        while let Some((digest, next)) = waiting.last_mut() {
            let vertex = *digest;
            let op = ops.get(&vertex);
            let op = op.ok_or(LlbError::MissingInput { vertex: terminal, input: vertex })?;
            if let Some(input) = op.inputs.get(*next) {
                *next += 1;
                let input = Digest::parse(&input.digest)
                    .map_err(|_| LlbError::MissingInput { vertex, input: vertex })?;
                if entered.insert(input) {
                    waiting.push((input, 0));
                }
                continue;
            }
            waiting.pop();
            self.names.insert(vertex, format!("step{}", self.ops.len()));
            // It was just looked at.
            self.ops.extend(ops.remove(&vertex).map(|op| (vertex, op)));
        }
        Ok(())
    }

    /// The step of a vertex.
    pub fn name(&self, vertex: &Digest) -> Option<&str> {
        self.names.get(vertex).map(String::as_str)
    }

    /// All vertices with their steps, in the order of digests.
    pub fn mapping(&self) -> &BTreeMap<Digest, String> {
        &self.names
    }

    /// The steps as a JSON array: id, op, inputs, and what `used` says (JSON) of what they used.
    pub fn to_json<'a>(&self, used: impl Fn(&Digest) -> Option<&'a str>) -> String {
        let step = |(digest, op): &(Digest, pb::Op)| {
            let inputs: Vec<String> = op.inputs.iter().filter_map(|input| self.input(input)).collect();
            let op = pb::Op { inputs: Vec::new(), ..op.clone() };
            let mut object = Object::new();
            object.text("id", self.name(digest).unwrap_or_default()).raw("op", &json::op_json(&op));
            object.list("inputs", &inputs, |input| quoted(input));
            if let Some(usage) = used(digest) {
                object.raw("resourceUsage", usage);
            }
            object.end()
        };
        let steps: Vec<String> = self.ops.iter().map(step).collect();
        format!("[{}]", steps.join(","))
    }

    /// `step0:0`
    fn input(&self, input: &pb::Input) -> Option<String> {
        let name = self.name(&Digest::parse(&input.digest).ok()?)?;
        Some(format!("{name}:{}", input.index))
    }

    /// The JSON object that has the steps and the numbers of vertices. `used`: as for [`Steps::to_json`].
    pub fn config_json<'a>(&self, used: impl Fn(&Digest) -> Option<&'a str>) -> String {
        let mut object = Object::new();
        self.add_to(&mut object, used);
        object.end()
    }

    fn add_to<'a>(&self, object: &mut Object, used: impl Fn(&Digest) -> Option<&'a str>) {
        object.raw("llbDefinition", &self.to_json(used));
        let mut mapping = Object::new();
        for (digest, name) in &self.names {
            mapping.raw(&digest.to_string(), &quoted(name));
        }
        object.raw("digestMapping", &mapping.end());
    }

    /// Where the steps were written: a JSON object with places by step, and the files.
    ///
    /// Errors: as [`Steps::of`], for the definitions of the files.
    pub fn source_json(&self, source: &SourceMap, redact: Redact) -> Result<String, LlbError> {
        let wire = source.to_wire();
        let mut places: Vec<(&str, &pb::Locations)> = Vec::new();
        for (vertex, locations) in &wire.locations {
            let name = Digest::parse(vertex).ok().and_then(|vertex| self.name(&vertex));
            places.extend(name.map(|name| (name, locations)));
        }
        places.sort_by_key(|(name, _)| (name.len(), *name));
        let mut locations = Object::new();
        for (name, of_step) in places {
            let mut object = Object::new();
            object.list("locations", &of_step.locations, json::location_json);
            locations.raw(name, &object.end());
        }
        let info = |info| info_json(&SourceInfo::from_wire(info)?, redact);
        let infos = wire.infos.iter().map(info).collect::<Result<Vec<_>, _>>()?;
        let mut object = Object::new();
        object.raw("locations", &locations.end()).raw("infos", &format!("[{}]", infos.join(",")));
        Ok(object.end())
    }
}

fn info_json(info: &SourceInfo, redact: Redact) -> Result<String, LlbError> {
    let mut object = Object::new();
    object.text("filename", &info.filename).text("language", &info.language).bytes("data", &info.data);
    if let Some(definition) = &info.definition {
        Steps::of(definition, redact)?.add_to(&mut object, |_| None);
    }
    Ok(object.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ExecOptions, ImageOptions, MarshalOptions, State};

    fn same(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn steps_come_after_their_inputs_and_the_terminal_is_last() {
        let state = State::image("docker.io/library/busybox:latest", ImageOptions::default()).unwrap();
        let run = state.run(ExecOptions { args: vec!["true".into()], ..ExecOptions::default() });
        let definition = run.root().marshal(&MarshalOptions::default()).unwrap();
        let steps = Steps::of(&definition, same).unwrap();
        let json: serde_json::Value = serde_json::from_str(&steps.to_json(|_| None)).unwrap();
        assert_eq!(json.as_array().unwrap().len(), 3);
        assert_eq!(json[1]["inputs"], serde_json::json!(["step0:0"]));
        assert_eq!(json[2]["op"], serde_json::json!({"Op": {}}));
        assert_eq!(steps.mapping().len(), 3);
        let config: serde_json::Value = serde_json::from_str(&steps.config_json(|_| Some("{}"))).unwrap();
        assert_eq!(config["llbDefinition"][1]["resourceUsage"], serde_json::json!({}));
        assert!(json[1].get("resourceUsage").is_none());
        assert_eq!(config["digestMapping"].as_object().unwrap().len(), 3);
    }

    #[test]
    fn what_must_not_be_read_is_taken_out() {
        let state = State::image("secret.example/x:latest", ImageOptions::default()).unwrap();
        let run = ExecOptions { args: vec!["is-secret".into()], ..ExecOptions::default() };
        let definition = state.add_env("A", "secret").run(run).root().marshal(&MarshalOptions::default());
        let steps = Steps::of(&definition.unwrap(), |text| text.replace("secret", "xxxxx")).unwrap();
        let json = steps.to_json(|_| None);
        assert!(json.contains("docker-image://xxxxx.example/x:latest") && !json.contains("secret"), "{json}");
    }

    #[test]
    fn scratch_has_no_steps() {
        assert_eq!(Steps::of(&Definition::default(), same).unwrap().to_json(|_| None), "[]");
    }
}
