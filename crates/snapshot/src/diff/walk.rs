//! The walk over an upper directory, and beside it over the base.

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::iter::Peekable;
use std::path::Path;
use std::vec::IntoIter;

use rbuild_sys::{Root, Stat};

use super::writer::{Change, Writer};
use crate::compare::{Side, Trust, same};
use crate::deep::{DeepDir, OPEN_LEVELS};
use crate::error::OnEntry;
use crate::xattr::{self, Attrs};
use crate::{Result, SnapshotError};

/// What the directories of the upper side hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// What changed, whiteouts and opaque marks.
    Overlay,
    /// Everything there is; what is missing was removed. Overlay whiteouts in it mean nothing.
    Full,
}

/// One directory on the way down.
struct Level<'a> {
    form: Form,
    upper: DeepDir<'a>,
    /// The same directory in the base, if it is one there.
    base: Option<DeepDir<'a>>,
    upper_names: Peekable<IntoIter<OsString>>,
    /// In full form: the base's names. Else empty.
    base_names: Peekable<IntoIter<OsString>>,
}

pub(super) struct Walk<'a, 'w, W: Write> {
    base: Option<&'a Root>,
    upper: &'a Root,
    out: &'w mut Writer<'a, W>,
    levels: Vec<Level<'a>>,
}

/// The next name of a level and the sides that have it.
enum Next {
    Done,
    OnlyBase(OsString),
    Upper(OsString),
}

impl<'a, 'w, W: Write> Walk<'a, 'w, W> {
    pub(super) fn new(base: Option<&'a Root>, upper: &'a Root, out: &'w mut Writer<'a, W>) -> Self {
        Self { base, upper, out, levels: Vec::new() }
    }

    pub(super) fn run(mut self, form: Form) -> Result<()> {
        let base = self.base.map(DeepDir::top).transpose()?;
        let top = level(DeepDir::top(self.upper)?, base, form)?;
        self.levels.push(top);
        while let Some(here) = self.levels.last_mut() {
            match here.next() {
                Next::Done => {
                    self.levels.pop();
                }
                Next::OnlyBase(name) => {
                    let path = here.upper.path().join(name);
                    self.out.deleted(&path)?;
                }
                Next::Upper(name) => self.entry(&name)?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &OsStr) -> Result<()> {
        let Some(here) = self.levels.last_mut() else { return Ok(()) };
        let path = here.upper.path().join(name);
        let form = here.form;
        let base_stat = match &mut here.base {
            Some(base) => found(base.get()?.stat(name)).entry(&path)?,
            None => None,
        };
        let stat = here.upper.get()?.stat(name).entry(&path)?;
        if stat.is_overlay_whiteout() {
            if base_stat.is_some() {
                self.out.deleted(&path)?;
            }
            return Ok(());
        }
        let attrs = xattr::inspect(here.upper.get()?, name, self.out.keep()).entry(&path)?;
        if form == Form::Overlay {
            refuse_features(&attrs, &path)?;
        }
        let change = change(here, name, &stat, base_stat.as_ref(), &path)?;
        let skip = change == Change::Unmodified && form == Form::Overlay;
        if !skip {
            self.out.entry(here.upper.get()?, name, &path, &stat, attrs.kept, change)?;
        }
        if !stat.is_dir() {
            return Ok(());
        }
        let base = match (&mut here.base, base_stat) {
            (Some(base), Some(stat)) if stat.is_dir() => Some(base.enter(name)?),
            _ => None,
        };
        let form = if attrs.opaque && base.is_some() { Form::Full } else { form };
        let next = level(here.upper.enter(name)?, base, form)?;
        self.push(next);
        Ok(())
    }

    fn push(&mut self, next: Level<'a>) {
        if self.levels.len() >= OPEN_LEVELS {
            let far = self.levels.len() - OPEN_LEVELS;
            let far = &mut self.levels[far];
            far.upper.close();
            if let Some(base) = &mut far.base {
                base.close();
            }
        }
        self.levels.push(next);
    }
}

impl Level<'_> {
    fn next(&mut self) -> Next {
        let order = match (self.base_names.peek(), self.upper_names.peek()) {
            (None, None) => return Next::Done,
            (Some(base), Some(upper)) => base.cmp(upper),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        if order != Ordering::Greater {
            let name = self.base_names.next().unwrap_or_default();
            if order == Ordering::Less {
                return Next::OnlyBase(name);
            }
        }
        Next::Upper(self.upper_names.next().unwrap_or_default())
    }
}

fn level<'a>(mut upper: DeepDir<'a>, mut base: Option<DeepDir<'a>>, form: Form) -> Result<Level<'a>> {
    let upper_names = names(&mut upper)?;
    let base_names = match &mut base {
        Some(base) if form == Form::Full => names(base)?,
        _ => Vec::new(),
    };
    Ok(Level {
        form,
        upper,
        base,
        upper_names: upper_names.into_iter().peekable(),
        base_names: base_names.into_iter().peekable(),
    })
}

fn names(dir: &mut DeepDir<'_>) -> Result<Vec<OsString>> {
    let path = dir.path().to_path_buf();
    let entries = dir.get()?.read_dir().entry(&path)?;
    let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
    names.sort();
    Ok(names)
}

fn change(
    here: &mut Level<'_>,
    name: &OsStr,
    stat: &Stat,
    base_stat: Option<&Stat>,
    path: &Path,
) -> Result<Change> {
    let (Some(base), Some(base_stat)) = (&mut here.base, base_stat) else { return Ok(Change::Written) };
    let trust = if here.form == Form::Overlay { Trust::Nothing } else { Trust::FineTimes };
    let before = Side { dir: base.get()?, name, stat: base_stat };
    let after = Side { dir: here.upper.get()?, name, stat };
    Ok(if same(before, after, path, trust)? { Change::Unmodified } else { Change::Written })
}

fn refuse_features(attrs: &Attrs, path: &Path) -> Result<()> {
    match attrs.feature {
        None => Ok(()),
        Some(feature) => Err(SnapshotError::OverlayFeature { entry: path.display().to_string(), feature }),
    }
}

/// A missing thing is no error.
fn found(stat: rbuild_sys::Result<Stat>) -> rbuild_sys::Result<Option<Stat>> {
    match stat {
        Ok(stat) => Ok(Some(stat)),
        Err(err) if err.is_not_found() || err.is_not_dir() => Ok(None),
        Err(err) => Err(err),
    }
}
