//! The arrows between crates are those of `docs/layers.toml`, and no others.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

type Arrows = BTreeMap<String, BTreeSet<String>>;

fn manifest_arrows(root: &Path) -> Arrows {
    let mut folders: Vec<_> =
        std::fs::read_dir(root.join("crates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.extend(["daemon", "client", "tests"].map(|name| root.join(name)));
    let mut arrows = Arrows::new();
    for folder in folders {
        let text = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let manifest: toml::Value = toml::from_str(&text).unwrap();
        let used = manifest.get("dependencies").and_then(toml::Value::as_table);
        let used = used.into_iter().flat_map(|table| table.keys());
        let used = used.filter_map(|name| name.strip_prefix("rbuild-")).map(str::to_owned).collect();
        arrows.insert(folder.file_name().unwrap().to_string_lossy().into_owned(), used);
    }
    arrows
}

#[test]
fn crates_use_only_what_the_map_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let table = std::fs::read_to_string(root.join("docs/layers.toml")).unwrap();
    let allowed: Arrows = toml::from_str(&table).unwrap();
    for (name, used) in manifest_arrows(&root) {
        let allowed = allowed.get(&name).unwrap_or_else(|| panic!("`{name}` is not in docs/layers.toml"));
        let extra: Vec<_> = used.difference(allowed).collect();
        assert!(extra.is_empty(), "`{name}` uses {extra:?}, which docs/layers.toml does not allow");
    }
}
