use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use rbuild_api::pb;
use rbuild_digest::Digest;

use crate::{Definition, LlbError};

/// A file that a frontend compiled, for excerpts in error messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceInfo {
    /// Its name, for instance `Dockerfile`.
    pub filename: String,
    /// Its text.
    pub data: Bytes,
    /// How to get it again.
    pub definition: Option<Definition>,
    /// Its language, for instance `Dockerfile`.
    pub language: String,
}

/// A place in a text; lines and characters as the frontend counts them (the Dockerfile's lines from 1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line.
    pub line: i32,
    /// Column.
    pub character: i32,
}

/// Part of a text, both ends included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// First position.
    pub start: Position,
    /// Last position.
    pub end: Position,
}

impl Range {
    /// Whole lines `first` to `last`.
    pub fn lines(first: i32, last: i32) -> Self {
        Self { start: Position { line: first, character: 0 }, end: Position { line: last, character: 0 } }
    }

    /// From the wire; missing ends are zero.
    pub fn from_wire(range: &pb::Range) -> Self {
        let position = |p: Option<pb::Position>| {
            p.map(|p| Position { line: p.line, character: p.character }).unwrap_or_default()
        };
        Self { start: position(range.start), end: position(range.end) }
    }

    /// To the wire.
    pub fn to_wire(self) -> pb::Range {
        let position = |p: Position| Some(pb::Position { line: p.line, character: p.character });
        pb::Range { start: position(self.start), end: position(self.end) }
    }
}

/// Most files of one definition. They are compared with each other; builds have one, those of other frontends
/// a few.
const MAX_INFOS: usize = 1_000;

/// Where in a source something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLocation {
    /// The file.
    pub info: Arc<SourceInfo>,
    /// The places in it.
    pub ranges: Vec<Range>,
}

/// Which vertex was written where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceMap {
    /// The files.
    pub infos: Vec<Arc<SourceInfo>>,
    /// Places by vertex; a vertex without a place may be listed too.
    pub locations: BTreeMap<Digest, Vec<SourceLocation>>,
}

impl SourceMap {
    pub(crate) fn from_wire(source: &pb::Source, depth: u32) -> Result<Self, LlbError> {
        if source.infos.len() > MAX_INFOS {
            return Err(LlbError::TooManySources { count: source.infos.len(), limit: MAX_INFOS });
        }
        let mut infos = Vec::with_capacity(source.infos.len());
        for info in &source.infos {
            infos.push(Arc::new(SourceInfo::from_wire_nested(info, depth)?));
        }
        let mut locations = BTreeMap::new();
        for (key, list) in &source.locations {
            let vertex =
                Digest::parse(key).map_err(|source| LlbError::Key { map: "source locations", source })?;
            let mut places = Vec::with_capacity(list.locations.len());
            for location in &list.locations {
                let index = location.source_index;
                let info = usize::try_from(index)
                    .ok()
                    .and_then(|i| infos.get(i))
                    .ok_or(LlbError::SourceIndex { vertex, index, count: infos.len() })?;
                let ranges = location.ranges.iter().map(Range::from_wire).collect();
                places.push(SourceLocation { info: info.clone(), ranges });
            }
            locations.insert(vertex, places);
        }
        Ok(Self { infos, locations })
    }

    pub(crate) fn to_wire(&self) -> pb::Source {
        let mut infos = SourceInfos::default();
        for info in &self.infos {
            infos.push(info);
        }
        let mut locations = BTreeMap::new();
        for (vertex, places) in &self.locations {
            let list = places.iter().map(|place| {
                let index = infos.index(&place.info);
                let ranges = place.ranges.iter().map(|r| r.to_wire()).collect();
                pb::Location { source_index: i32::try_from(index).unwrap_or(i32::MAX), ranges }
            });
            locations.insert(vertex.to_string(), pb::Locations { locations: list.collect() });
        }
        pb::Source { locations, infos: infos.list.iter().map(|info| info.to_wire()).collect() }
    }
}

/// Files by number. Most locations share a few of them: what was seen is known by its address, and only what
/// wasn't is compared.
#[derive(Debug, Default)]
pub(crate) struct SourceInfos {
    pub(crate) list: Vec<Arc<SourceInfo>>,
    /// Holds what it knows, so that no address is used again.
    known: HashMap<usize, (Arc<SourceInfo>, usize)>,
}

impl SourceInfos {
    /// The number of a file, which joins the list unless an equal one is there.
    pub(crate) fn index(&mut self, info: &Arc<SourceInfo>) -> usize {
        if let Some((_, index)) = self.known.get(&Arc::as_ptr(info).addr()) {
            return *index;
        }
        match self.list.iter().position(|other| other == info) {
            Some(index) => {
                self.known.insert(Arc::as_ptr(info).addr(), (info.clone(), index));
                index
            }
            None => self.push(info),
        }
    }

    /// Adds a file even if an equal one is there.
    fn push(&mut self, info: &Arc<SourceInfo>) -> usize {
        let index = self.list.len();
        self.list.push(info.clone());
        self.known.entry(Arc::as_ptr(info).addr()).or_insert_with(|| (info.clone(), index));
        index
    }
}

impl SourceInfo {
    /// From the wire, its nested definition checked.
    pub fn from_wire(info: &pb::SourceInfo) -> Result<Self, LlbError> {
        Self::from_wire_nested(info, 0)
    }

    fn from_wire_nested(info: &pb::SourceInfo, depth: u32) -> Result<Self, LlbError> {
        let definition = match &info.definition {
            Some(definition) => Some(Definition::from_wire_nested(definition.clone(), depth + 1)?),
            None => None,
        };
        Ok(Self {
            filename: info.filename.clone(),
            data: Bytes::copy_from_slice(&info.data),
            definition,
            language: info.language.clone(),
        })
    }

    /// To the wire.
    pub fn to_wire(&self) -> pb::SourceInfo {
        pb::SourceInfo {
            filename: self.filename.clone(),
            data: self.data.to_vec(),
            definition: self.definition.as_ref().map(Definition::to_wire),
            language: self.language.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_files_have_one_number() {
        let file = |name: &str| Arc::new(SourceInfo { filename: name.to_owned(), ..SourceInfo::default() });
        let (first, same, other) = (file("a"), file("a"), file("b"));
        let mut infos = SourceInfos::default();
        let numbers = [&first, &other, &same, &first, &other, &same].map(|info| infos.index(info));
        assert_eq!(numbers, [0, 1, 0, 0, 1, 0]);
        assert_eq!(infos.list.len(), 2);
    }
}
