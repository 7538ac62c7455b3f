use super::*;

const BOOT: &str = "boot-1";

fn open(root: &Path, boot: &str) -> (Db, Opened) {
    Db::open(root, boot, None).expect("opens")
}

fn put(db: &Db, key: &str, value: &str) {
    db.update(|tx| tx.put(Table::Values, key.as_bytes(), value.as_bytes())).expect("writes");
}

fn get(db: &Db, key: &str) -> Option<String> {
    db.get(Table::Values, key.as_bytes()).expect("reads").map(|v| String::from_utf8(v).expect("text"))
}

/// What a kill would leave: the files as the kernel has them now.
fn killed(root: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("temp dir");
    for name in ["meta.db", "journal"] {
        std::fs::copy(root.join(name), copy.path().join(name)).expect("copies");
    }
    copy
}

#[test]
fn a_kill_loses_nothing_committed() {
    let root = tempfile::tempdir().expect("temp dir");
    let (db, _) = open(root.path(), BOOT);
    put(&db, "a", "1");
    db.checkpoint(|| Ok(())).expect("checkpoint");
    put(&db, "b", "2");
    db.update(|tx| tx.delete(Table::Values, b"a")).expect("deletes");
    let after = killed(root.path());
    let (db, opened) = open(after.path(), BOOT);
    assert_eq!(opened, Opened::SameBoot);
    assert_eq!((get(&db, "a"), get(&db, "b")), (None, Some("2".into())));
    // And once more, with writes after the replay.
    put(&db, "c", "3");
    let after = killed(after.path());
    let (db, _) = open(after.path(), BOOT);
    assert_eq!((get(&db, "b"), get(&db, "c")), (Some("2".into()), Some("3".into())));
}

#[test]
fn a_reboot_drops_what_was_not_checkpointed_and_keeps_the_rest() {
    let root = tempfile::tempdir().expect("temp dir");
    let (db, _) = open(root.path(), BOOT);
    db.update(|tx| tx.unsynced(b"old")).expect("writes");
    put(&db, "a", "1");
    db.checkpoint(|| db.update(|tx| tx.unsynced(b"meanwhile"))).expect("checkpoint");
    put(&db, "b", "2");
    let after = killed(root.path());
    let (db, opened) = open(after.path(), "boot-2");
    assert_eq!(opened, Opened::OtherBoot);
    assert_eq!((get(&db, "a"), get(&db, "b")), (Some("1".into()), None));
    let marks = db.scan(Table::Unsynced, b"").expect("reads");
    assert_eq!(marks.len(), 1, "the mark set during the sync stays: {marks:?}");
    drop(db);
    assert_eq!(open(after.path(), "boot-2").1, Opened::SameBoot);
}

#[test]
fn a_torn_journal_ends_at_the_last_whole_transaction() {
    let root = tempfile::tempdir().expect("temp dir");
    let (db, _) = open(root.path(), BOOT);
    put(&db, "a", "1");
    put(&db, "b", "2");
    let whole = std::fs::read(root.path().join("journal")).expect("reads");
    // The last transaction takes 25 bytes: a head of 20, table, key and value.
    for cut in 1..=25 {
        let copy = killed(root.path());
        std::fs::write(copy.path().join("journal"), &whole[..whole.len() - cut]).expect("writes");
        let (db, _) = open(copy.path(), BOOT);
        assert_eq!((get(&db, "a"), get(&db, "b")), (Some("1".into()), None), "cut {cut}");
        put(&db, "c", "3");
        assert_eq!(get(&open(killed(copy.path()).path(), BOOT).0, "c"), Some("3".into()));
    }
}

#[test]
fn a_failed_transaction_changes_nothing() {
    let root = tempfile::tempdir().expect("temp dir");
    let (db, _) = open(root.path(), BOOT);
    let failed: Result<()> = db.update(|tx| {
        tx.put(Table::Values, b"a", b"1")?;
        Err(StoreError::corrupt("values", "test"))
    });
    assert!(failed.is_err());
    assert_eq!(get(&db, "a"), None);
    assert_eq!(get(&open(killed(root.path()).path(), BOOT).0, "a"), None);
}

#[test]
fn a_newer_format_is_refused_in_words() {
    let root = tempfile::tempdir().expect("temp dir");
    let (db, _) = open(root.path(), BOOT);
    db.update(|tx| tx.put(Table::Meta, KEY_FORMAT, &(FORMAT + 1).to_be_bytes())).expect("writes");
    db.checkpoint(|| Ok(())).expect("checkpoint");
    drop(db);
    let error = Db::open(root.path(), BOOT, None).expect_err("refused");
    assert!(error.to_string().contains("newer version (format 2"), "{error}");
}

#[test]
fn a_commit_costs_microseconds() {
    let root = tempfile::tempdir().expect("temp dir");
    let (db, _) = open(root.path(), BOOT);
    let begun = std::time::Instant::now();
    for n in 0..500 {
        put(&db, &n.to_string(), "value");
    }
    let each = begun.elapsed() / 500;
    let begun = std::time::Instant::now();
    for n in 0..500 {
        assert!(get(&db, &n.to_string()).is_some());
    }
    let read = begun.elapsed() / 500;
    let begun = std::time::Instant::now();
    for n in 0..20 {
        put(&db, &n.to_string(), "value");
        db.checkpoint(|| Ok(())).expect("checkpoint");
    }
    println!("commit {each:?}, read {read:?}, checkpoint {:?}", begun.elapsed() / 20);
}
