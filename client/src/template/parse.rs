use std::iter::Peekable;
use std::vec::IntoIter;

use super::lex::{self, Piece, Token};
use super::value::plain_name;
use super::{TemplateError, Value};

/// Blocks and parentheses within each other; each costs stack when it is parsed and when it is run.
const MAX_DEPTH: usize = 100;

/// A piece of a parsed template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Print(Pipeline),
    Set {
        name: String,
        declare: bool,
        pipeline: Pipeline,
    },
    /// Conditions in their order, and what is done if none holds.
    If {
        arms: Vec<(Pipeline, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    With {
        name: Option<String>,
        pipeline: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        names: Vec<String>,
        pipeline: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Break,
    Continue,
}

/// Commands, each of which gets the result of the one before as its last argument.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) commands: Vec<Vec<Operand>>,
}

/// A word of a command. The first may be a function.
#[derive(Debug)]
pub(super) enum Operand {
    Function(String),
    Literal(Value),
    Path { base: Base, fields: Vec<String> },
}

/// Where a chain of fields starts.
#[derive(Debug)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Pipeline(Box<Pipeline>),
}

/// Parses a whole template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { pieces: lex::pieces(text)?.into_iter(), depth: 0, loops: 0 };
    let (nodes, end) = parser.block()?;
    match end {
        None => Ok(nodes),
        Some(end) => Err(TemplateError::Stray { keyword: end.keyword().to_owned() }),
    }
}

/// Whether the nodes may look at a field of the root; `whole`: a dot alone counts.
pub(super) fn mention(nodes: &[Node], field: &str, whole: bool) -> bool {
    let all = |nodes: &[Node]| mention(nodes, field, whole);
    let of = |pipeline: &Pipeline| mentioned(pipeline, field, whole);
    nodes.iter().any(|node| match node {
        Node::Text(_) | Node::Break | Node::Continue => false,
        Node::Print(pipeline) | Node::Set { pipeline, .. } => of(pipeline),
        Node::If { arms, otherwise } => {
            arms.iter().any(|(pipeline, body)| of(pipeline) || all(body)) || all(otherwise)
        }
        Node::With { pipeline, body, otherwise, .. } | Node::Range { pipeline, body, otherwise, .. } => {
            of(pipeline) || all(body) || all(otherwise)
        }
    })
}

fn mentioned(pipeline: &Pipeline, field: &str, whole: bool) -> bool {
    pipeline.commands.iter().flatten().any(|operand| match operand {
        Operand::Function(_) | Operand::Literal(_) => false,
        Operand::Path { base: Base::Pipeline(inner), .. } => mentioned(inner, field, whole),
        Operand::Path { fields, .. } => {
            fields.first().map_or(whole, |first| plain_name(first) == plain_name(field))
        }
    })
}

/// What ends a block.
enum End {
    End,
    Else(Tokens),
}

impl End {
    fn keyword(&self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Else(_) => "else",
        }
    }
}

type Tokens = Peekable<IntoIter<Token>>;

struct Parser<'a> {
    pieces: IntoIter<Piece<'a>>,
    depth: usize,
    /// `range` blocks around the place.
    loops: usize,
}

impl Parser<'_> {
    /// Nodes up to the end of the block, or of the template.
    fn block(&mut self) -> Result<(Vec<Node>, Option<End>), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let action = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.to_owned()));
                    continue;
                }
                Piece::Action(action) => action,
            };
            let mut tokens = lex::tokens(action)?.into_iter().peekable();
            let keyword = match tokens.peek() {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            let node = match keyword.as_str() {
                "end" => return Ok((nodes, Some(End::End))),
                "else" => {
                    tokens.next();
                    return Ok((nodes, Some(End::Else(tokens))));
                }
                "if" | "with" | "range" => {
                    tokens.next();
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(TemplateError::TooDeep);
                    }
                    let node = match keyword.as_str() {
                        "if" => self.conditions(tokens),
                        "with" => self.with(tokens),
                        _ => self.range(tokens),
                    };
                    self.depth -= 1;
                    node?
                }
                "break" | "continue" if self.loops == 0 => return Err(TemplateError::Stray { keyword }),
                "break" => Node::Break,
                "continue" => Node::Continue,
                "define" | "template" | "block" => return Err(TemplateError::Unsupported { what: keyword }),
                _ => statement(tokens)?,
            };
            nodes.push(node);
        }
        Ok((nodes, None))
    }

    fn conditions(&mut self, tokens: Tokens) -> Result<Node, TemplateError> {
        let mut arms = Vec::new();
        let mut tokens = tokens;
        loop {
            let condition = whole_pipeline(tokens)?;
            let (body, end) = self.block()?;
            arms.push((condition, body));
            match end {
                None => return Err(TemplateError::NoEnd { keyword: "if" }),
                Some(End::End) => return Ok(Node::If { arms, otherwise: Vec::new() }),
                Some(End::Else(mut rest)) => match rest.next() {
                    None => return Ok(Node::If { arms, otherwise: self.last_block("if")? }),
                    Some(Token::Word(word)) if word == "if" => tokens = rest,
                    Some(other) => return Err(unexpected(Some(&other))),
                },
            }
        }
    }

    fn with(&mut self, mut tokens: Tokens) -> Result<Node, TemplateError> {
        let name = match declaration(&mut tokens)?.as_slice() {
            [] => None,
            [name] => Some(name.clone()),
            _ => return Err(TemplateError::Unexpected { found: "second variable".to_owned() }),
        };
        let pipeline = whole_pipeline(tokens)?;
        let (body, otherwise) = self.body_and_else("with")?;
        Ok(Node::With { name, pipeline, body, otherwise })
    }

    fn range(&mut self, mut tokens: Tokens) -> Result<Node, TemplateError> {
        let names = declaration(&mut tokens)?;
        let pipeline = whole_pipeline(tokens)?;
        self.loops += 1;
        let parts = self.body_and_else("range");
        self.loops -= 1;
        let (body, otherwise) = parts?;
        Ok(Node::Range { names, pipeline, body, otherwise })
    }

    fn body_and_else(&mut self, keyword: &'static str) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
        let (body, end) = self.block()?;
        match end {
            None => Err(TemplateError::NoEnd { keyword }),
            Some(End::End) => Ok((body, Vec::new())),
            Some(End::Else(mut rest)) => match rest.next() {
                None => Ok((body, self.last_block(keyword)?)),
                Some(other) => Err(unexpected(Some(&other))),
            },
        }
    }

    fn last_block(&mut self, keyword: &'static str) -> Result<Vec<Node>, TemplateError> {
        match self.block()? {
            (nodes, Some(End::End)) => Ok(nodes),
            (_, Some(End::Else(_))) => Err(TemplateError::Stray { keyword: "else".to_owned() }),
            (_, None) => Err(TemplateError::NoEnd { keyword }),
        }
    }
}

/// `pipeline`, `$x := pipeline` or `$x = pipeline`.
fn statement(mut tokens: Tokens) -> Result<Node, TemplateError> {
    let mut ahead = tokens.clone();
    if let (Some(Token::Variable(name)), Some(Token::Sign(sign @ ("=" | ":=")))) =
        (ahead.next(), ahead.next())
    {
        return Ok(Node::Set { name, declare: sign == ":=", pipeline: whole_pipeline(ahead)? });
    }
    let pipeline = pipeline(&mut tokens, 0)?;
    match tokens.next() {
        None => Ok(Node::Print(pipeline)),
        other => Err(unexpected(other.as_ref())),
    }
}

/// `$x :=` or `$x, $y :=` at the beginning, or nothing.
fn declaration(tokens: &mut Tokens) -> Result<Vec<String>, TemplateError> {
    let mut ahead = tokens.clone();
    let mut names = Vec::new();
    while let Some(Token::Variable(name)) = ahead.next() {
        names.push(name);
        match ahead.next() {
            Some(Token::Sign(",")) if names.len() < 2 => {}
            Some(Token::Sign(":=")) => {
                *tokens = ahead;
                return Ok(names);
            }
            _ => break,
        }
    }
    Ok(Vec::new())
}

fn whole_pipeline(mut tokens: Tokens) -> Result<Pipeline, TemplateError> {
    let pipeline = pipeline(&mut tokens, 0)?;
    match tokens.next() {
        None => Ok(pipeline),
        other => Err(unexpected(other.as_ref())),
    }
}

/// Commands with `|` between them, up to a closing parenthesis or the end.
fn pipeline(tokens: &mut Tokens, depth: usize) -> Result<Pipeline, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::TooDeep);
    }
    let mut commands = Vec::new();
    loop {
        let mut command = Vec::new();
        while let Some(token) = tokens.next_if(|token| !matches!(token, Token::Sign(")" | "|"))) {
            let operand = operand(token, tokens, depth)?;
            command.push(operand);
        }
        let is_call = matches!(command.first(), Some(Operand::Function(_)));
        // Only functions take arguments, and what comes through a pipe is one.
        if command.is_empty() || (!is_call && (command.len() > 1 || !commands.is_empty())) {
            return Err(match command.is_empty() {
                true => unexpected(tokens.peek()),
                false => TemplateError::Unexpected { found: "second value".to_owned() },
            });
        }
        commands.push(command);
        if tokens.next_if(|token| *token == Token::Sign("|")).is_none() {
            return Ok(Pipeline { commands });
        }
    }
}

fn operand(token: Token, tokens: &mut Tokens, depth: usize) -> Result<Operand, TemplateError> {
    let (base, first) = match token {
        Token::Word(word) => {
            return Ok(match word.as_str() {
                "true" | "false" => Operand::Literal(Value::Bool(word == "true")),
                "nil" => Operand::Literal(Value::Null),
                _ => Operand::Function(word),
            });
        }
        Token::Text(text) => return Ok(Operand::Literal(Value::Text(text))),
        Token::Number(number) => return Ok(Operand::Literal(Value::Number(number))),
        Token::Dot => (Base::Dot, None),
        Token::Field { name, .. } => (Base::Dot, Some(name)),
        Token::Variable(name) => (Base::Variable(name), None),
        Token::Sign("(") => {
            let inner = pipeline(tokens, depth + 1)?;
            match tokens.next() {
                Some(Token::Sign(")")) => (Base::Pipeline(Box::new(inner)), None),
                other => return Err(unexpected(other.as_ref())),
            }
        }
        Token::Sign(_) => return Err(unexpected(Some(&token))),
    };
    let mut fields: Vec<String> = first.into_iter().collect();
    while let Some(Token::Field { name, .. }) =
        tokens.next_if(|token| matches!(token, Token::Field { glued: true, .. }))
    {
        fields.push(name);
    }
    Ok(Operand::Path { base, fields })
}

fn unexpected(token: Option<&Token>) -> TemplateError {
    let found = match token {
        None => "end".to_owned(),
        Some(Token::Word(word)) => format!("`{word}`"),
        Some(Token::Field { name, .. }) => format!("`.{name}`"),
        Some(Token::Dot) => "`.`".to_owned(),
        Some(Token::Variable(name)) => format!("`${name}`"),
        Some(Token::Text(_)) => "string".to_owned(),
        Some(Token::Number(number)) => format!("`{number}`"),
        Some(Token::Sign(sign)) => format!("`{sign}`"),
    };
    TemplateError::Unexpected { found }
}
