use rbuild_digest::{Digest, Hasher};

use super::ChecksumError;

/// As many symbolic links as upstream follows before it suspects a loop.
const MAX_LINKS: usize = 255;

pub(super) type NodeId = u32;
pub(super) const ROOT: NodeId = 0;

/// One path of the tree.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) parent: NodeId,
    pub(super) name: Box<[u8]>,
    pub(super) kind: Kind,
    /// Of a file its content digest, of a link and of a directory that of the header.
    pub(super) digest: Option<Digest>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A regular or special file.
    File,
    Link(Box<[u8]>),
    Dir(Dir),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Dir {
    /// Sorted by name; `None` while the directory has not been listed.
    pub(super) children: Option<Vec<NodeId>>,
    /// Digest over header and children, cleared when anything below changes.
    pub(super) contents: Option<Digest>,
}

/// What is known about the files of one ref: an arena in which directories are listed and files hashed
/// only when somebody asks. Paths are sequences of names, so bytes that are not UTF-8 pass through.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tree {
    pub(super) nodes: Vec<Node>,
}

/// Where a path leads.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    Node(NodeId),
    /// Nothing is there.
    Nothing,
    /// This directory has to be listed first.
    Unlisted(NodeId),
}

impl Tree {
    /// A tree about which nothing is known yet.
    pub(crate) fn unknown() -> Self {
        let root = Node { parent: ROOT, name: Box::default(), kind: Kind::Dir(Dir::default()), digest: None };
        Self { nodes: vec![root] }
    }

    /// The tree of a context that a client sends: empty and complete. Its root directory has no header
    /// of its own; upstream stands the digest of nothing in its place.
    pub(crate) fn context() -> Self {
        let mut tree = Self::unknown();
        tree.nodes[0].digest = Some(Digest::of(b""));
        tree.set_children(ROOT, Vec::new());
        tree
    }

    /// Forgets all but that the root of a context has no header.
    pub(crate) fn unknown_context() -> Self {
        let mut tree = Self::unknown();
        tree.nodes[0].digest = Some(Digest::of(b""));
        tree
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    pub(super) fn children(&self, id: NodeId) -> Option<&[NodeId]> {
        match &self.node(id).kind {
            Kind::Dir(dir) => dir.children.as_deref(),
            _ => Some(&[]),
        }
    }

    /// Gives a directory its listing. `entries` in any order.
    pub(super) fn set_children(&mut self, parent: NodeId, mut entries: Vec<(Box<[u8]>, Kind)>) {
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        let mut ids = Vec::with_capacity(entries.len());
        for (name, kind) in entries {
            ids.push(self.push(Node { parent, name, kind, digest: None }));
        }
        if let Kind::Dir(dir) = &mut self.node_mut(parent).kind {
            dir.children = Some(ids);
        }
    }

    fn push(&mut self, node: Node) -> NodeId {
        let id = NodeId::try_from(self.nodes.len()).expect("fewer than 2^32 files in one ref");
        self.nodes.push(node);
        id
    }

    fn position(&self, children: &[NodeId], name: &[u8]) -> Result<usize, usize> {
        children.binary_search_by(|&id| (*self.node(id).name).cmp(name))
    }

    /// The child called `name`.
    fn child(&self, dir: NodeId, name: &[u8]) -> Found {
        match self.children(dir) {
            None => Found::Unlisted(dir),
            Some(list) => match self.position(list, name) {
                Ok(at) => Found::Node(list[at]),
                Err(_) => Found::Nothing,
            },
        }
    }

    /// Path of a node from the root: `/a/b`, empty for the root.
    pub(super) fn path(&self, id: NodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            names.push(&self.node(at).name);
            at = self.node(at).parent;
        }
        names.iter().rev().flat_map(|name| std::iter::once(&b'/').chain(name.iter())).copied().collect()
    }

    /// Follows a path. Links on the way are followed below the root; one at the end only if `follow`.
    ///
    /// A missing component does not end the walk, as upstream has it: `missing/../here` is `here`.
    pub(super) fn resolve(&self, path: &[u8], follow: bool) -> Result<Found, ChecksumError> {
        let mut todo: Vec<Box<[u8]>> = components(path);
        let mut trail = vec![Some(ROOT)];
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if &*name == b".." {
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            let next = match trail.last().copied().flatten() {
                None => None,
                Some(dir) => match self.child(dir, &name) {
                    Found::Node(id) => Some(id),
                    Found::Nothing => None,
                    unlisted @ Found::Unlisted(_) => return Ok(unlisted),
                },
            };
            if let Some(Kind::Link(target)) = next.map(|id| &self.node(id).kind)
                && (follow || !todo.is_empty())
            {
                links += 1;
                if links > MAX_LINKS {
                    return Err(ChecksumError::TooManyLinks { path: lossy(path) });
                }
                if target.starts_with(b"/") {
                    trail.truncate(1);
                }
                todo.extend(components(target));
                continue;
            }
            trail.push(next);
        }
        Ok(trail.last().copied().flatten().map_or(Found::Nothing, Found::Node))
    }

    /// Sets what is at `path`; directories on the way are made if they are missing.
    pub(crate) fn update(&mut self, path: &[u8], kind: EntryKind, digest: Digest) {
        let names = components(path);
        if names.is_empty() {
            return;
        }
        let mut at = ROOT;
        for (left, name) in names.iter().rev().enumerate() {
            self.forget_contents(at);
            let is_last = left + 1 == names.len();
            at = self.child_or_new(at, name, is_last.then_some(&kind));
        }
        let node = self.node_mut(at);
        node.digest = Some(digest);
    }

    fn child_or_new(&mut self, dir: NodeId, name: &[u8], kind: Option<&EntryKind>) -> NodeId {
        let wants_dir = matches!(kind, None | Some(EntryKind::Dir));
        let list = self.children(dir).unwrap_or_default();
        let at = self.position(list, name);
        if let Ok(at) = at {
            let id = list[at];
            let is_dir = matches!(self.node(id).kind, Kind::Dir(_));
            if !(wants_dir && is_dir) {
                self.node_mut(id).kind = kind.map_or_else(empty_dir, EntryKind::to_kind);
                self.node_mut(id).digest = None;
            } else if kind.is_some() {
                self.forget_contents(id);
            }
            return id;
        }
        let kind = kind.map_or_else(empty_dir, EntryKind::to_kind);
        let id = self.push(Node { parent: dir, name: name.into(), kind, digest: None });
        if let (Kind::Dir(dir), Err(at)) = (&mut self.node_mut(dir).kind, at) {
            dir.children.get_or_insert_default().insert(at, id);
        }
        id
    }

    fn forget_contents(&mut self, id: NodeId) {
        if let Kind::Dir(dir) = &mut self.node_mut(id).kind {
            dir.contents = None;
        }
    }

    /// Digest of a node. Everything below has to be listed and hashed; see [`Tree::missing`].
    pub(super) fn digest(&mut self, id: NodeId) -> Option<Digest> {
        match &self.node(id).kind {
            Kind::Dir(Dir { contents: Some(known), .. }) => return Some(*known),
            Kind::Dir(_) => {}
            _ => return self.node(id).digest,
        }
        // Bottom-up without recursion: directories in preorder, then computed in reverse.
        let mut order = vec![id];
        let mut at = 0;
        while at < order.len() {
            for &child in self.children(order[at])? {
                if matches!(&self.node(child).kind, Kind::Dir(dir) if dir.contents.is_none()) {
                    order.push(child);
                }
            }
            at += 1;
        }
        for &dir in order.iter().rev() {
            let contents = self.dir_contents(dir)?;
            if let Kind::Dir(dir) = &mut self.node_mut(dir).kind {
                dir.contents = Some(contents);
            }
        }
        match &self.node(id).kind {
            Kind::Dir(dir) => dir.contents,
            _ => None,
        }
    }

    fn dir_contents(&self, id: NodeId) -> Option<Digest> {
        let mut hash = Hasher::new();
        hash.update(b"\0").update(self.node(id).digest?.to_string());
        for &child in self.children(id)? {
            let node = self.node(child);
            let digest = match &node.kind {
                Kind::Dir(dir) => dir.contents?,
                _ => node.digest?,
            };
            hash.update(b"\0").update(&node.name).update(digest.to_string());
        }
        Some(hash.finish())
    }

    /// Number of nodes, dead ones included: what the tree weighs.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }
}

/// What is at a path, as whoever writes the files says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular or special file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link and where it points.
    Link(Vec<u8>),
}

impl EntryKind {
    /// From `st_mode` and, of a symbolic link, its target.
    pub fn of(mode: u32, link: &[u8]) -> Self {
        match mode & 0o170_000 {
            0o040_000 => Self::Dir,
            0o120_000 => Self::Link(link.to_vec()),
            _ => Self::File,
        }
    }

    fn to_kind(&self) -> Kind {
        match self {
            Self::File => Kind::File,
            Self::Dir => empty_dir(),
            Self::Link(target) => Kind::Link(target.as_slice().into()),
        }
    }
}

fn empty_dir() -> Kind {
    Kind::Dir(Dir { children: Some(Vec::new()), contents: None })
}

/// Names of a path, last first, so that `pop` gives the next one. `.` and empty names vanish, `..` stays.
fn components(path: &[u8]) -> Vec<Box<[u8]>> {
    let names = path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".");
    let mut names: Vec<Box<[u8]>> = names.map(Into::into).collect();
    names.reverse();
    names
}

pub(super) fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tree {
        let mut tree = Tree::context();
        let hash = |text: &str| Digest::of(text);
        tree.update(b"d", EntryKind::Dir, hash("d"));
        tree.update(b"d/f", EntryKind::File, hash("f"));
        tree.update(b"d/abs", EntryKind::Link(b"/d".to_vec()), hash("abs"));
        tree.update(b"up", EntryKind::Link(b"../../d/./abs/f".to_vec()), hash("up"));
        tree.update(b"loop", EntryKind::Link(b"loop".to_vec()), hash("loop"));
        tree
    }

    fn find(tree: &Tree, path: &str, follow: bool) -> Option<Vec<u8>> {
        match tree.resolve(path.as_bytes(), follow).expect("no loop") {
            Found::Node(id) => Some(tree.path(id)),
            _ => None,
        }
    }

    #[test]
    fn links_stay_below_the_root() {
        let tree = sample();
        assert_eq!(find(&tree, "up", true).as_deref(), Some(&b"/d/f"[..]));
        assert_eq!(find(&tree, "up", false).as_deref(), Some(&b"/up"[..]));
        assert_eq!(find(&tree, "/d/abs/abs/f", false).as_deref(), Some(&b"/d/f"[..]));
        assert_eq!(find(&tree, "../../d/f", false).as_deref(), Some(&b"/d/f"[..]));
        assert_eq!(find(&tree, "nope/../d", false).as_deref(), Some(&b"/d"[..]));
        assert_eq!(find(&tree, "d/f/x", false), None);
        assert_eq!(find(&tree, "/", false).as_deref(), Some(&b""[..]));
        assert!(tree.resolve(b"loop", true).is_err());
    }

    #[test]
    fn a_directory_digest_is_its_header_and_its_children_in_order() {
        let mut tree = Tree::context();
        tree.update(b"b", EntryKind::File, Digest::of("b"));
        tree.update(b"a", EntryKind::Dir, Digest::of("a"));
        let inner = Digest::of(format!("\0{}", Digest::of("a")));
        let expected = format!("\0{}\0a{inner}\0b{}", Digest::of(""), Digest::of("b"));
        assert_eq!(tree.digest(ROOT), Some(Digest::of(expected)));
    }

    #[test]
    fn an_update_changes_every_directory_above() {
        let mut tree = sample();
        let before = tree.digest(ROOT);
        tree.update(b"d/f", EntryKind::File, Digest::of("f2"));
        let after = tree.digest(ROOT);
        assert_ne!(before, after);
        tree.update(b"d/f", EntryKind::File, Digest::of("f"));
        assert_eq!(tree.digest(ROOT), before);
        tree.update(b"d/new/x", EntryKind::File, Digest::of("x"));
        tree.update(b"d/new", EntryKind::Dir, Digest::of("new"));
        assert_ne!(tree.digest(ROOT), before);
    }

    #[test]
    fn a_file_in_place_of_a_directory_drops_what_was_below() {
        let mut tree = sample();
        tree.update(b"d", EntryKind::File, Digest::of("now a file"));
        assert_eq!(find(&tree, "d/f", false), None);
        tree.update(b"d", EntryKind::Dir, Digest::of("d"));
        assert_eq!(find(&tree, "d/f", false), None);
    }
}
