use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::ControlFlow;

use super::parse::{Base, Node, Operand, Pipeline};
use super::{TemplateError, Value};

/// Longest width of `printf`: padding beyond what a terminal shows helps nobody.
const MAX_WIDTH: usize = 1000;

/// What the nodes print for `root`.
pub(super) fn run(nodes: &[Node], root: &Value) -> Result<String, TemplateError> {
    let mut run = Run { out: String::new(), variables: vec![(String::new(), Cow::Borrowed(root))] };
    let _flow = run.nodes(nodes, &Cow::Borrowed(root))?;
    Ok(run.out)
}

/// How a block ended: at its end, or by `break` or `continue`.
enum Jump {
    Break,
    Continue,
}

type Flow = ControlFlow<Jump>;
type Held<'a> = Cow<'a, Value>;

struct Run<'a> {
    out: String,
    /// Innermost last; `$` has the empty name.
    variables: Vec<(String, Held<'a>)>,
}

impl<'a> Run<'a> {
    fn nodes(&mut self, nodes: &[Node], dot: &Held<'a>) -> Result<Flow, TemplateError> {
        let scope = self.variables.len();
        let mut flow = Flow::Continue(());
        for node in nodes {
            flow = self.node(node, dot)?;
            if flow.is_break() {
                break;
            }
        }
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn node(&mut self, node: &Node, dot: &Held<'a>) -> Result<Flow, TemplateError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let text = self.pipeline(pipeline, dot)?.print()?;
                self.out.push_str(&text);
            }
            Node::Set { name, declare, pipeline } => {
                let value = self.pipeline(pipeline, dot)?;
                self.set(name, *declare, value)?;
            }
            Node::If { arms, otherwise } => {
                for (condition, body) in arms {
                    if self.pipeline(condition, dot)?.is_true() {
                        return self.nodes(body, dot);
                    }
                }
                return self.nodes(otherwise, dot);
            }
            Node::With { name, pipeline, body, otherwise } => {
                let value = self.pipeline(pipeline, dot)?;
                if !value.is_true() {
                    return self.nodes(otherwise, dot);
                }
                let scope = self.variables.len();
                if let Some(name) = name {
                    self.variables.push((name.clone(), value.clone()));
                }
                let flow = self.nodes(body, &value);
                self.variables.truncate(scope);
                return flow;
            }
            Node::Range { names, pipeline, body, otherwise } => {
                let over = self.pipeline(pipeline, dot)?;
                let items = items(over)?;
                if items.is_empty() {
                    return self.nodes(otherwise, dot);
                }
                return self.each(names, items, body);
            }
            Node::Break => return Ok(Flow::Break(Jump::Break)),
            Node::Continue => return Ok(Flow::Break(Jump::Continue)),
        }
        Ok(Flow::Continue(()))
    }

    fn each(
        &mut self,
        names: &[String],
        items: Vec<(Value, Held<'a>)>,
        body: &[Node],
    ) -> Result<Flow, TemplateError> {
        let scope = self.variables.len();
        for (key, value) in items {
            match names {
                [] => {}
                [name] => self.variables.push((name.clone(), value.clone())),
                [first, second, ..] => {
                    self.variables.push((first.clone(), Cow::Owned(key)));
                    self.variables.push((second.clone(), value.clone()));
                }
            }
            let flow = self.nodes(body, &value)?;
            self.variables.truncate(scope);
            if matches!(flow, Flow::Break(Jump::Break)) {
                break;
            }
        }
        Ok(Flow::Continue(()))
    }

    fn set(&mut self, name: &str, declare: bool, value: Held<'a>) -> Result<(), TemplateError> {
        if declare {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        let (_, place) = known.ok_or_else(|| TemplateError::Variable { name: name.to_owned() })?;
        *place = value;
        Ok(())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Held<'a>) -> Result<Held<'a>, TemplateError> {
        let mut result: Option<Held<'a>> = None;
        for command in &pipeline.commands {
            result = Some(match command.split_first() {
                Some((Operand::Function(name), operands)) => {
                    let mut arguments: Vec<Held<'a>> = Vec::with_capacity(operands.len() + 1);
                    for operand in operands {
                        arguments.push(self.operand(operand, dot)?);
                    }
                    arguments.extend(result);
                    call(name, arguments)?
                }
                Some((operand, _)) => self.operand(operand, dot)?,
                None => Cow::Owned(Value::Null),
            });
        }
        Ok(result.unwrap_or(Cow::Owned(Value::Null)))
    }

    fn operand(&self, operand: &Operand, dot: &Held<'a>) -> Result<Held<'a>, TemplateError> {
        let (base, fields) = match operand {
            Operand::Function(name) => return call(name, Vec::new()),
            Operand::Literal(value) => return Ok(Cow::Owned(value.clone())),
            Operand::Path { base, fields } => (base, fields),
        };
        let start = match base {
            Base::Dot => dot.clone(),
            Base::Variable(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                known.ok_or_else(|| TemplateError::Variable { name: name.clone() })?.1.clone()
            }
            Base::Pipeline(inner) => self.pipeline(inner, dot)?,
        };
        fields.iter().try_fold(start, |value, field| member(value, |value| value.field(field)))
    }
}

/// A part of a value, borrowed where the whole is.
fn member<'a>(
    value: Held<'a>,
    find: impl FnOnce(&Value) -> Result<Option<&Value>, TemplateError>,
) -> Result<Held<'a>, TemplateError> {
    Ok(match value {
        Cow::Borrowed(value) => find(value)?.map_or(Cow::Owned(Value::Null), Cow::Borrowed),
        Cow::Owned(value) => Cow::Owned(find(&value)?.cloned().unwrap_or(Value::Null)),
    })
}

/// What `range` goes through, with keys; maps by their keys' order.
fn items(over: Held<'_>) -> Result<Vec<(Value, Held<'_>)>, TemplateError> {
    let number = |index: usize| Value::Number(index.into());
    let refused = || TemplateError::Arguments {
        function: "range".to_owned(),
        reason: "neither a list nor a map".to_owned(),
    };
    let mut items: Vec<(Value, Held<'_>)> = match over {
        Cow::Borrowed(value) => match value.inner() {
            Value::Null => Vec::new(),
            Value::List(list) => {
                list.iter().enumerate().map(|(index, item)| (number(index), Cow::Borrowed(item))).collect()
            }
            Value::Map(map) => {
                map.iter().map(|(key, item)| (Value::Text(key.clone()), Cow::Borrowed(item))).collect()
            }
            _ => return Err(refused()),
        },
        Cow::Owned(value) => match value.inner().clone() {
            Value::Null => Vec::new(),
            Value::List(list) => {
                list.into_iter().enumerate().map(|(index, item)| (number(index), Cow::Owned(item))).collect()
            }
            Value::Map(map) => {
                map.into_iter().map(|(key, item)| (Value::Text(key), Cow::Owned(item))).collect()
            }
            _ => return Err(refused()),
        },
    };
    items.sort_by(|(a, _), (b, _)| match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        _ => Ordering::Equal,
    });
    Ok(items)
}

fn call<'a>(name: &str, arguments: Vec<Held<'a>>) -> Result<Held<'a>, TemplateError> {
    let wrong =
        |reason: &str| TemplateError::Arguments { function: name.to_owned(), reason: reason.to_owned() };
    let owned = |value: Value| Ok(Cow::Owned(value));
    match (name, arguments.as_slice()) {
        ("json", [value]) => {
            let bytes =
                rbuild_oci::json::to_vec_indent(&**value).map_err(|error| wrong(&error.to_string()))?;
            owned(Value::Text(String::from_utf8_lossy(&bytes).into_owned()))
        }
        ("len", [value]) => {
            let len = match value.inner() {
                Value::Null => 0,
                Value::Text(text) => text.len(),
                Value::List(list) => list.len(),
                Value::Map(map) => map.len(),
                _ => return Err(wrong("the value has no length")),
            };
            owned(Value::Number(len.into()))
        }
        ("not", [value]) => owned(Value::Bool(!value.is_true())),
        ("and" | "or", [_, ..]) => {
            let decides = |value: &Held<'a>| value.is_true() == (name == "or");
            let at = arguments.iter().position(decides).unwrap_or(arguments.len() - 1);
            arguments.into_iter().nth(at).ok_or_else(|| wrong("no argument"))
        }
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            owned(Value::Bool(others.iter().any(|other| other.inner() == first.inner())))
        }
        ("ne", [a, b]) => owned(Value::Bool(a.inner() != b.inner())),
        ("lt" | "le" | "gt" | "ge", [a, b]) => {
            let order = compare(a.inner(), b.inner()).ok_or_else(|| wrong("the values have no order"))?;
            owned(Value::Bool(match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }))
        }
        ("index", [_, _, ..]) => {
            let mut arguments = arguments.into_iter();
            let start = arguments.next().unwrap_or(Cow::Owned(Value::Null));
            arguments.try_fold(start, |value, key| member(value, |value| at(value, &key, &wrong)))
        }
        ("print" | "println", parts) => {
            let texts: Result<Vec<_>, _> = parts.iter().map(|part| part.print()).collect();
            let end = if name == "println" { "\n" } else { "" };
            owned(Value::Text(texts?.join(" ") + end))
        }
        ("printf", [format, parts @ ..]) => match format.inner() {
            Value::Text(format) => owned(Value::Text(printf(format, parts, &wrong)?)),
            _ => Err(wrong("the format is no string")),
        },
        ("json" | "len" | "not" | "and" | "or" | "eq" | "ne", _)
        | ("lt" | "le" | "gt" | "ge" | "index" | "printf", _) => Err(wrong("wrong number of arguments")),
        _ => Err(TemplateError::Function { name: name.to_owned() }),
    }
}

/// An element of a list or map. An index that is not there is an error, a key is not.
fn at<'v>(
    value: &'v Value,
    key: &Value,
    wrong: &dyn Fn(&str) -> TemplateError,
) -> Result<Option<&'v Value>, TemplateError> {
    match (value.inner(), key.inner()) {
        (Value::Null, _) => Ok(None),
        (Value::Map(map), Value::Text(key)) => Ok(map.get(key)),
        (Value::List(list), Value::Number(number)) => {
            let index = number.as_u64().and_then(|index| usize::try_from(index).ok());
            let found = index.and_then(|index| list.get(index));
            found.map(Some).ok_or_else(|| wrong("index out of range"))
        }
        _ => Err(wrong("lists are indexed by numbers, maps by strings")),
    }
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// `%s`, `%v`, `%d` and `%q`, with a width (negative: to the left), and `%%`.
fn printf(
    format: &str,
    parts: &[Held<'_>],
    wrong: &dyn Fn(&str) -> TemplateError,
) -> Result<String, TemplateError> {
    let mut out = String::new();
    let mut parts = parts.iter();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let end =
            after.find(|c: char| !matches!(c, '-' | '0'..='9')).ok_or_else(|| wrong("unfinished verb"))?;
        let (width, tail) = after.split_at(end);
        let verb = tail.chars().next().unwrap_or('%');
        rest = &tail[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        let part = parts.next().ok_or_else(|| wrong("fewer values than verbs"))?;
        let text = match verb {
            's' | 'v' | 'd' => part.print()?,
            'q' => serde_json::Value::String(part.print()?).to_string(),
            other => return Err(wrong(&format!("verb %{other} is not supported"))),
        };
        let size = width.trim_start_matches('-').parse().unwrap_or(0);
        if size > MAX_WIDTH {
            return Err(wrong("the width is too large"));
        }
        match width.starts_with('-') {
            true => out.push_str(&format!("{text:<size$}")),
            false => out.push_str(&format!("{text:>size$}")),
        }
    }
    out.push_str(rest);
    match parts.next() {
        None => Ok(out),
        Some(_) => Err(wrong("more values than verbs")),
    }
}
