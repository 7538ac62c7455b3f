use crate::CompileError;
use crate::mounts::{MountSource, MountSpec, mount_source};

/// The value of `--mount`.
///
/// Claims: nothing panics; the same text is the same mount; what a mount is made from can be told before its
/// variables are known, and is not changed by them.
pub fn mount(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parse = || MountSpec::parse(&text, &mut |value| Ok(value.to_owned()));
    let parsed = parse();
    assert_eq!(format!("{parsed:?}"), format!("{:?}", parse()));
    let source = mount_source(&text);
    let Ok(mount) = parsed else { return };
    let named = mount.from.as_deref().filter(|from| !from.is_empty());
    let told = match &source {
        MountSource::Named(name) => Some(name.as_str()),
        MountSource::Context | MountSource::Empty => None,
    };
    assert_eq!(told, named, "{text:?}");
    let refused = MountSpec::parse(&text, &mut |_| Err(CompileError::new("refused")));
    assert!(refused.as_ref().is_ok_and(|other| *other == mount) || refused.is_err(), "{text:?}");
}
