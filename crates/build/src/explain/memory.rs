use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rbuild_digest::Digest;
use rbuild_worker::FileList;
use serde::{Deserialize, Serialize};

use super::MAX_STEPS;

/// What was not used for so long is forgotten.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// All files together; beyond, those that were used longest ago go.
const MAX_BYTES: u64 = 256 << 20;
/// First bytes of a list of files. Another number is another format, which is as good as none.
const LIST_MAGIC: &[u8] = b"rbuild files 1\n";

/// What is remembered of targets: `explain/<target>.json` and lists of files under their content digest. Losing any of
/// it costs an explanation and nothing else, so failures are logged and no more.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    dir: PathBuf,
}

/// The steps of a target as they were last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    steps: BTreeMap<String, StepState>,
}

/// A step as it was last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StepState {
    /// Its op as JSON, without inputs.
    pub(super) op: String,
    /// In the op's order.
    pub(super) inputs: Vec<InputState>,
}

/// An input as it was last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InputState {
    /// Its definition, and that of all beneath it.
    pub(super) shape: Digest,
    /// What was read of it, if that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<Digest>,
}

impl Target {
    /// The step called `name`. The text of an instruction may have changed, so the place in its stage and the
    /// instruction's word (`[build 2/4] RUN`) lead to it as well.
    pub(super) fn find(&self, name: &str) -> Option<&StepState> {
        let place = place(name);
        self.steps.get(name).or_else(|| {
            let place = place?;
            self.steps.iter().find(|(known, _)| self::place(known) == Some(place)).map(|(_, step)| step)
        })
    }

    pub(super) fn put(&mut self, name: String, step: StepState) {
        if let Some(place) = place(&name) {
            self.steps.retain(|known, _| self::place(known) != Some(place));
        }
        if self.steps.len() < MAX_STEPS || self.steps.contains_key(&name) {
            self.steps.insert(name, step);
        }
    }
}

/// `[build 2/4] RUN` of `[build 2/4] RUN make`; nothing of names of another shape.
fn place(name: &str) -> Option<&str> {
    let end = name.strip_prefix('[')?.find("] ")? + 3;
    let has_number = name[..end].contains('/');
    let word = name[end..].find(' ').unwrap_or(name.len() - end);
    has_number.then(|| &name[..end + word])
}

impl Memory {
    /// What is remembered in `dir`, which is made.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    fn target_path(&self, target: &Digest) -> PathBuf {
        self.dir.join(format!("{}.json", target.hex()))
    }

    fn list_path(&self, content: &Digest) -> PathBuf {
        self.dir.join(format!("{}.files", content.hex()))
    }

    pub(super) fn load(&self, target: &Digest) -> Target {
        let path = self.target_path(target);
        let read = read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other));
        read.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!(%error, "the memory of a target is unreadable");
            }
            Target::default()
        })
    }

    pub(super) fn save(&self, target: &Digest, state: &Target) {
        let bytes = serde_json::to_vec(state).expect("strings and maps with string keys");
        self.write(&self.target_path(target), &bytes);
    }

    /// The files behind a content digest.
    pub(super) fn files(&self, content: &Digest) -> Option<FileList> {
        decode(&read(&self.list_path(content)).ok()?)
    }

    pub(super) fn keep_files(&self, content: &Digest, files: &FileList) {
        let path = self.list_path(content);
        if !path.exists() {
            self.write(&path, &encode(files));
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) {
        let aside = self.dir.join(format!("{}.part", rbuild_digest::random_id()));
        let written = std::fs::write(&aside, bytes).and_then(|()| std::fs::rename(&aside, path));
        if let Err(error) = written {
            tracing::debug!(%error, "remembering why steps run");
            // It may not be there.
            std::fs::remove_file(&aside).ok();
        }
    }

    /// Forgets what was not used for long, or is too much. Blocking.
    pub(crate) fn collect(&self) {
        if let Err(error) = self.collect_until(SystemTime::now(), MAX_BYTES) {
            tracing::debug!(%error, "forgetting why steps ran");
        }
    }

    fn collect_until(&self, now: SystemTime, max_bytes: u64) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            files.push((meta.modified()?, meta.len(), entry.path()));
        }
        files.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
        let mut bytes = 0;
        for (used, size, path) in files {
            bytes += size;
            let age = now.duration_since(used).unwrap_or_default();
            if age > KEPT_FOR || bytes > max_bytes {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Reads a file and marks it as used.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    // Only its place in the order of forgetting depends on it.
    file.set_modified(SystemTime::now()).ok();
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut &file, &mut bytes)?;
    Ok(bytes)
}

/// The magic, then per file: length of the path (4 bytes, little endian), the path, 32 bytes of digest.
fn encode(files: &FileList) -> Vec<u8> {
    let mut bytes = LIST_MAGIC.to_vec();
    for (path, digest) in files {
        let length = u32::try_from(path.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(path);
        bytes.extend_from_slice(digest.as_bytes());
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<FileList> {
    let mut rest = bytes.strip_prefix(LIST_MAGIC)?;
    let mut files = FileList::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (path, after) = after.split_at_checked(length)?;
        let (digest, after) = after.split_first_chunk::<32>()?;
        files.insert(path.to_vec(), Digest::from_bytes(*digest));
        rest = after;
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> (tempfile::TempDir, Memory) {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path().join("explain")).unwrap();
        (dir, memory)
    }

    #[test]
    fn lists_come_back_and_cut_ones_are_nothing() {
        let files: FileList =
            [(b"a".to_vec(), Digest::of("1")), (b"b\xff/c".to_vec(), Digest::of("2"))].into();
        let bytes = encode(&files);
        assert_eq!(decode(&bytes), Some(files));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode(b"other"), None);
    }

    #[test]
    fn steps_are_found_by_their_place_when_their_text_has_changed() {
        let mut target = Target::default();
        let step = |op: &str| StepState { op: op.into(), inputs: Vec::new() };
        target.put("[build 2/4] RUN make".into(), step("1"));
        target.put("exporting".into(), step("2"));
        assert_eq!(target.find("[build 2/4] RUN make -j").unwrap().op, "1");
        assert!(target.find("[build 2/4] COPY a b").is_none());
        assert!(target.find("[build 3/4] RUN make").is_none());
        assert!(target.find("export").is_none());
        target.put("[build 2/4] RUN make -j".into(), step("3"));
        assert_eq!(target.find("[build 2/4] RUN make").unwrap().op, "3", "one step a place");
    }

    #[test]
    fn what_was_used_longest_ago_is_forgotten_first() {
        let (_dir, memory) = memory();
        let files = |name: &str| FileList::from([(name.as_bytes().to_vec(), Digest::of(name))]);
        let (old, new) = (Digest::of("old"), Digest::of("new"));
        memory.keep_files(&old, &files("old"));
        memory.keep_files(&new, &files("new"));
        let past = SystemTime::now() - Duration::from_secs(60);
        std::fs::File::open(memory.list_path(&old)).unwrap().set_modified(past).unwrap();
        memory.collect_until(SystemTime::now(), encode(&files("new")).len() as u64).unwrap();
        assert!(memory.files(&new).is_some() && memory.files(&old).is_none());
        memory.collect_until(SystemTime::now() + KEPT_FOR + KEPT_FOR, u64::MAX).unwrap();
        assert!(memory.files(&new).is_none());
    }
}
