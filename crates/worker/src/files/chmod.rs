//! Modes as `chmod` understands them.

use super::error::{FileError, Result};

/// A change of permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModeChange {
    /// As the source has them.
    Keep,
    /// These bits.
    Bits(u32),
    /// Clauses like `u=rwX,go=rX`, in order.
    Clauses(Vec<Clause>),
}

/// One clause: for whom, how, which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clause {
    /// The bits that `who` covers, as a mask over all twelve.
    who: u32,
    operator: Operator,
    rights: Rights,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Rights {
    /// Bits as if for everybody.
    bits: u32,
    /// Execute only for directories and what is executable by somebody.
    search: bool,
    /// Copies from `u`, `g` or `o`: how far to shift down.
    copy: Option<u32>,
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o1007;

impl ModeChange {
    /// Reads octal digits or clauses.
    pub(crate) fn parse(mode: &str) -> Result<Self> {
        let bad = || FileError::Mode { mode: mode.chars().take(80).collect() };
        if !mode.is_empty() && mode.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
            let bits = u32::from_str_radix(mode, 8).map_err(|_| bad())?;
            return if bits > 0o7777 { Err(bad()) } else { Ok(Self::Bits(bits)) };
        }
        let clauses: Option<Vec<Vec<Clause>>> = mode.split(',').map(parse_clause).collect();
        clauses.map(|clauses| Self::Clauses(clauses.concat())).ok_or_else(bad)
    }

    /// The permission bits of something that had `mode` (twelve bits).
    pub(crate) fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Keep => mode & 0o7777,
            Self::Bits(bits) => *bits & 0o7777,
            Self::Clauses(clauses) => {
                clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, is_dir))
            }
        }
    }
}

impl Clause {
    fn apply(self, mode: u32, is_dir: bool) -> u32 {
        let mut bits = self.rights.bits;
        if self.rights.search && (is_dir || mode & 0o111 != 0) {
            bits |= 0o111;
        }
        if let Some(shift) = self.rights.copy {
            let one = (mode >> shift) & 7;
            bits |= one << 6 | one << 3 | one;
        }
        let bits = bits & self.who;
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            // As chmod: `=` leaves setuid, setgid and sticky of others alone.
            Operator::Set => (mode & !self.who) | bits,
        }
    }
}

/// `who` then one or more of operator and rights: `go=rX`, `a+x-w`.
fn parse_clause(text: &str) -> Option<Vec<Clause>> {
    let operators = |c: char| matches!(c, '+' | '-' | '=');
    let start = text.find(operators)?;
    let mut who = 0;
    for c in text[..start].chars() {
        who |= match c {
            'u' => USER,
            'g' => GROUP,
            'o' => OTHER,
            'a' => USER | GROUP | OTHER,
            _ => return None,
        };
    }
    if start == 0 {
        who = USER | GROUP | OTHER;
    }
    let mut clauses = Vec::new();
    let mut rest = &text[start..];
    while let Some(operator) = rest.chars().next() {
        let operator = match operator {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Set,
            _ => return None,
        };
        let end = rest[1..].find(operators).map_or(rest.len(), |at| at + 1);
        clauses.push(Clause { who, operator, rights: parse_rights(&rest[1..end])? });
        rest = &rest[end..];
    }
    Some(clauses)
}

fn parse_rights(text: &str) -> Option<Rights> {
    let mut rights = Rights::default();
    match text {
        "u" => rights.copy = Some(6),
        "g" => rights.copy = Some(3),
        "o" => rights.copy = Some(0),
        _ => {
            for c in text.chars() {
                match c {
                    'r' => rights.bits |= 0o444,
                    'w' => rights.bits |= 0o222,
                    'x' => rights.bits |= 0o111,
                    'X' => rights.search = true,
                    's' => rights.bits |= 0o6000,
                    't' => rights.bits |= 0o1000,
                    _ => return None,
                }
            }
        }
    }
    Some(rights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_what_chmod_makes_of_them() {
        for (mode, before, is_dir, after) in [
            ("755", 0o600, false, 0o755),
            ("4755", 0o600, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-rwx", 0o777, false, 0o700),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("+t", 0o755, true, 0o1755),
            ("g=u", 0o740, false, 0o770),
            ("o=g-w", 0o770, false, 0o775),
            ("a=", 0o777, false, 0),
            ("o-x", 0o755, false, 0o754),
        ] {
            assert_eq!(ModeChange::parse(mode).unwrap().apply(before, is_dir), after, "{mode} on {before:o}");
        }
        assert_eq!(ModeChange::Keep.apply(0o104_755, false), 0o4755);
    }

    #[test]
    fn nonsense_is_refused() {
        for mode in ["", "8", "77777", "u", "z+x", "u+q", "u=rw,", "rwx"] {
            assert!(ModeChange::parse(mode).is_err(), "{mode:?}");
        }
    }
}
