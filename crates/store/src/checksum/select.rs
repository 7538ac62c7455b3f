use rbuild_digest::{Digest, Hasher};
use rbuild_patterns::{Match, PatternSet, glob_match};

use super::scan::Filler;
use super::tree::{Kind, NodeId, ROOT, lossy};
use super::{ChecksumError, ChecksumOptions, PathDigests, key_path};
use crate::error::Result;

/// Digest over the files that a wildcard and patterns choose: their base names and digests in the order of their
/// paths. Directories count with their headers only, and those above a chosen file count even if they were not
/// chosen themselves. One file under the name that was asked for is its own digest; none is the digest of nothing.
pub(super) fn digest(
    filler: &mut Filler<'_>,
    path: &[u8],
    options: &ChecksumOptions,
) -> Result<Option<Digest>> {
    let Some(chosen) = chosen(filler, path, options)? else { return Ok(None) };
    let Some(digests) = digests(filler, &chosen, options.follow_links)? else { return Ok(None) };
    match &chosen[..] {
        [] => return Ok(Some(Digest::of(b""))),
        [one] if base(path) == base(&one.path) => return Ok(digests.first().copied()),
        _ => {}
    }
    let mut hash = Hasher::new();
    for (at, (entry, digest)) in chosen.iter().zip(&digests).enumerate() {
        if at > 0 {
            hash.update(b"\0");
        }
        hash.update(base(&entry.path)).update(digest.to_string());
    }
    Ok(Some(hash.finish()))
}

/// What [`digest`] covers, in the order in which it does: paths as they were asked for, and their digests.
pub(super) fn list(
    filler: &mut Filler<'_>,
    path: &[u8],
    options: &ChecksumOptions,
) -> Result<Option<PathDigests>> {
    let Some(chosen) = chosen(filler, path, options)? else { return Ok(None) };
    let Some(digests) = digests(filler, &chosen, options.follow_links)? else { return Ok(None) };
    Ok(Some(chosen.into_iter().map(|entry| entry.path).zip(digests).collect()))
}

fn chosen(filler: &mut Filler<'_>, path: &[u8], options: &ChecksumOptions) -> Result<Option<Vec<Seen>>> {
    // Upstream reads the whole tree here, too: what a pattern finds may be anywhere.
    if !filler.list_below(ROOT)? {
        return Ok(None);
    }
    let mut selection = Selection::new(path, options)?;
    let Some(start) = selection.start(filler)? else { return Ok(Some(Vec::new())) };
    selection.walk(filler, start)?;
    let mut chosen: Vec<_> = selection.seen.into_iter().filter(|entry| entry.order.is_some()).collect();
    chosen.sort_by_key(|entry| entry.order);
    Ok(Some(chosen))
}

/// The digest of each entry.
fn digests(filler: &mut Filler<'_>, chosen: &[Seen], follow: bool) -> Result<Option<Vec<Digest>>> {
    let missing: Vec<NodeId> =
        chosen.iter().map(|entry| entry.node).filter(|id| filler.tree.node(*id).digest.is_none()).collect();
    if !filler.hash(&missing)? {
        return Ok(None);
    }
    let mut found = Vec::with_capacity(chosen.len());
    for entry in chosen {
        let is_link = matches!(filler.tree.node(entry.node).kind, Kind::Link(_));
        let digest = if follow && is_link {
            filler.path_digest(&key_path(&entry.path), true)?
        } else {
            filler.own_digest(entry.node)?
        };
        let Some(digest) = digest else { return Ok(None) };
        found.push(digest);
    }
    Ok(Some(found))
}

/// A file, or the header of a directory, on the way of the walk.
struct Seen {
    node: NodeId,
    /// As it was asked for: links in the path not replaced.
    path: Vec<u8>,
    include: Match,
    exclude: Match,
    /// When it was chosen.
    order: Option<usize>,
}

struct Selection<'a> {
    options: &'a ChecksumOptions,
    path: Vec<u8>,
    ends_in_slash: bool,
    include: Option<PatternSet>,
    exclude: Option<PatternSet>,
    seen: Vec<Seen>,
    chosen: usize,
    /// What the wildcard matched last: everything below it is considered.
    matched: Option<Vec<u8>>,
}

impl<'a> Selection<'a> {
    fn new(path: &[u8], options: &'a ChecksumOptions) -> Result<Self> {
        let parse = |lines: &[String]| -> Result<Option<PatternSet>> {
            if lines.is_empty() {
                return Ok(None);
            }
            Ok(Some(PatternSet::parse(lines).map_err(pattern_error)?))
        };
        Ok(Self {
            options,
            path: key_path(path),
            ends_in_slash: path.ends_with(b"/"),
            include: parse(&options.include)?,
            exclude: parse(&options.exclude)?,
            seen: Vec::new(),
            chosen: 0,
            matched: None,
        })
    }

    /// Where the walk begins: a node and the path it was asked for by.
    fn start(&self, filler: &mut Filler<'_>) -> Result<Option<(NodeId, Vec<u8>)>> {
        let (prefix, follow) = if self.options.wildcard {
            let (prefix, has_rest) = plain_prefix(&self.path);
            (prefix, has_rest)
        } else {
            (self.path.clone(), false)
        };
        if prefix.is_empty() {
            return Ok(Some((ROOT, prefix)));
        }
        let found = filler.resolve(&prefix, follow)?.flatten();
        Ok(found.map(|node| (node, prefix)))
    }

    /// Visits the node and everything below, depth first, names in order.
    fn walk(&mut self, filler: &mut Filler<'_>, (node, path): (NodeId, Vec<u8>)) -> Result<()> {
        // A node, its path, and how many of `above` are its parents.
        let mut todo = vec![(node, path, 0)];
        let mut above: Vec<usize> = Vec::new();
        while let Some((node, path, depth)) = todo.pop() {
            above.truncate(depth);
            let is_dir = matches!(filler.tree.node(node).kind, Kind::Dir(_));
            if let Some(seen) = self.visit(node, &path, is_dir, &above)? {
                above.push(seen);
            }
            if is_dir {
                let children = filler.tree.children(node).unwrap_or_default();
                for &child in children.iter().rev() {
                    let name = &filler.tree.node(child).name;
                    todo.push((child, [&path[..], b"/", name].concat(), above.len()));
                }
            }
        }
        Ok(())
    }

    /// Looks at one path; gives back the index of a directory header that is a parent of what follows.
    fn visit(&mut self, node: NodeId, path: &[u8], is_dir: bool, above: &[usize]) -> Result<Option<usize>> {
        if self.options.wildcard && !self.path.is_empty() && !self.is_below_match(path) {
            let matches = glob_match(&lossy(&self.path), &lossy(path)).map_err(pattern_error)?;
            if !matches {
                return Ok(None);
            }
            self.matched = Some(path.to_vec());
        }
        if is_dir && self.ends_in_slash && path == self.path {
            // `dir/` means what is in the directory, not the directory.
            return Ok(None);
        }
        let base =
            if self.options.wildcard { self.matched.as_deref().unwrap_or_default() } else { &self.path };
        let (included, include, exclude) = self.wants(&candidate(path, base), above);
        let entry = Seen { node, path: path.to_vec(), include, exclude, order: None };
        if !included && !is_dir {
            return Ok(None);
        }
        self.seen.push(entry);
        let this = self.seen.len() - 1;
        if included {
            for &index in above.iter().chain([&this]) {
                if let Some(seen) = self.seen.get_mut(index)
                    && seen.order.is_none()
                {
                    seen.order = Some(self.chosen);
                    self.chosen += 1;
                }
            }
        }
        Ok(is_dir.then_some(this))
    }

    fn is_below_match(&self, path: &[u8]) -> bool {
        self.matched
            .as_ref()
            .is_some_and(|dir| path.len() > dir.len() && path.starts_with(dir) && path[dir.len()] == b'/')
    }

    /// What the patterns say of a path, given what they said of its parent.
    fn wants(&self, candidate: &str, above: &[usize]) -> (bool, Match, Match) {
        let parent = above.last().and_then(|index| self.seen.get(*index));
        let (mut include, mut exclude) = (Match::default(), Match::default());
        if let Some(patterns) = &self.include {
            let before = parent.map(|seen| seen.include.clone()).unwrap_or_default();
            include = patterns.matches_with_parent(candidate, &before);
            if !include.matched() {
                return (false, include, exclude);
            }
        }
        if let Some(patterns) = &self.exclude {
            let before = parent.map(|seen| seen.exclude.clone()).unwrap_or_default();
            exclude = patterns.matches_with_parent(candidate, &before);
            if exclude.matched() {
                return (false, include, exclude);
            }
        }
        (true, include, exclude)
    }
}

/// `path` relative to `base`; empty for `base` itself. A path that is not below it stays as it is.
fn candidate(path: &[u8], base: &[u8]) -> String {
    let rest = match path.strip_prefix(base) {
        Some(b"") => b"",
        Some(rest) if rest.starts_with(b"/") => &rest[1..],
        _ => path,
    };
    lossy(rest)
}

/// The leading components of a clean path without a wildcard, and whether others follow.
fn plain_prefix(path: &[u8]) -> (Vec<u8>, bool) {
    let mut prefix = Vec::new();
    for name in path.split(|&byte| byte == b'/').skip(1) {
        if has_wildcard(name) {
            return (prefix, true);
        }
        prefix.push(b'/');
        prefix.extend_from_slice(name);
    }
    (prefix, false)
}

fn has_wildcard(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// The last component as Go's `path.Base` has it.
fn base(path: &[u8]) -> &[u8] {
    if path.is_empty() {
        return b".";
    }
    let trimmed = path.iter().rposition(|&byte| byte != b'/').map_or(&b""[..], |end| &path[..=end]);
    if trimmed.is_empty() {
        return b"/";
    }
    trimmed.rsplit(|&byte| byte == b'/').next().unwrap_or(trimmed)
}

fn pattern_error(error: impl std::fmt::Display) -> ChecksumError {
    ChecksumError::Pattern { reason: error.to_string() }
}
