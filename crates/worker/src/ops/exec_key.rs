//! What an exec op is to the cache.
//!
//! The identity is the digest of the op's JSON without what must not matter: addresses of extra hosts, mount selectors
//! (they are selectors of the inputs instead) and proxies. An input is named by content if every mount of it is read
//! but not kept: read-only, or without an output. The root never is.

use rbuild_digest::Digest;
use rbuild_llb::{CacheSharing, ContentCache, ExecOp, Mount, MountKind};
use rbuild_oci::Platform;
use rbuild_solver::{CacheMap, InputKey};

use super::select::{self, Selector};
use crate::op::LlbOp;

const TYPE: &str = "buildkit.exec.v0";

pub(crate) fn cache_map(op: &LlbOp, exec: &ExecOp) -> CacheMap {
    let platform = op.platform.clone().unwrap_or_else(Platform::host).normalize();
    let inputs = (0..op.inputs).map(|input| InputKey {
        selector: select::identity(&selectors(exec, input)),
        content: by_content(exec, input),
    });
    CacheMap { inputs: inputs.collect(), ..CacheMap::new(digest(exec, &platform)) }
}

fn digest(exec: &ExecOp, platform: &Platform) -> Digest {
    let mut exec = exec.clone();
    exec.meta.proxy_env = None;
    for host in &mut exec.meta.extra_hosts {
        host.ip.clear();
    }
    for mount in &mut exec.mounts {
        mount.selector.clear();
        // Which cache is mounted, and with whom it is shared, is no part of what the step does. The name that Dockerfiles
        // give by default is kept, as upstream keeps it; it says no more than the target.
        if let MountKind::Cache { id, sharing } = &mut mount.kind
            && !(*sharing == CacheSharing::Shared && is_default_name(id, &mount.dest))
        {
            id.clear();
            *sharing = CacheSharing::Shared;
        }
    }
    if is_plain_root(&exec.mounts) {
        exec.mounts.clear();
    }
    let json = rbuild_llb::exec_to_json(&exec);
    let mut text = format!(
        "{{\"Type\":\"{TYPE}\",\"Exec\":{json},\"OS\":{:?},\"Arch\":{:?}",
        platform.os, platform.architecture
    );
    if let Some(variant) = Some(platform.variant.as_str()).filter(|variant| !variant.is_empty()) {
        text.push_str(&format!(",\"Variant\":{variant:?}"));
    }
    text.push('}');
    Digest::of(text)
}

/// Whether a cache mount has no name but its target.
fn is_default_name(id: &str, dest: &str) -> bool {
    id.starts_with('/') && absolute(id) == absolute(dest)
}

/// One ordinary root mount and nothing else: left out of the identity, as upstream does.
fn is_plain_root(mounts: &[Mount]) -> bool {
    let [mount] = mounts else { return false };
    mount.dest == "/"
        && mount.kind == MountKind::Bind
        && mount.input == Some(0)
        && mount.output == Some(0)
        && !mount.readonly
        && mount.content_cache == ContentCache::Default
}

/// The parts of an input that the mounts of it show.
pub(crate) fn selectors(exec: &ExecOp, input: usize) -> Vec<Selector> {
    // In the order of the mounts and with doubles: which mount shows which part is told apart by this list alone.
    of_input(exec, input).map(|mount| Selector::followed(absolute(&mount.selector))).collect()
}

fn absolute(path: &str) -> String {
    String::from_utf8_lossy(&crate::files::clean(path.as_bytes())).into_owned()
}

fn by_content(exec: &ExecOp, input: usize) -> bool {
    let mut any = false;
    for mount in of_input(exec, input) {
        any = true;
        let kept = !mount.readonly && mount.output.is_some();
        let named = match mount.content_cache {
            _ if mount.dest == "/" => false,
            ContentCache::Default => !kept,
            ContentCache::On => true,
            ContentCache::Off => false,
        };
        if !named {
            return false;
        }
    }
    any
}

fn of_input(exec: &ExecOp, input: usize) -> impl Iterator<Item = &Mount> + Clone {
    exec.mounts.iter().filter(move |mount| mount.input.is_some_and(|index| index as usize == input))
}

#[cfg(test)]
mod tests {
    use rbuild_llb::{HostIp, ProxyEnv};

    use super::*;

    fn mount(dest: &str, input: u32, output: Option<u32>, readonly: bool, selector: &str) -> Mount {
        Mount {
            input: Some(input),
            selector: selector.into(),
            dest: dest.into(),
            output,
            readonly,
            kind: MountKind::Bind,
            result_id: String::new(),
            content_cache: ContentCache::Default,
        }
    }

    fn exec(mounts: Vec<Mount>) -> ExecOp {
        let mut exec = ExecOp { mounts, ..ExecOp::default() };
        exec.meta.args = vec!["true".into()];
        exec
    }

    /// Seen in caches that upstream exported.
    #[test]
    fn cache_mounts_have_upstreams_keys() {
        let platform = Platform::parse("linux/amd64").unwrap();
        let key = |id: &str, sharing: CacheSharing| {
            let mut cache = mount("/pkg", 0, None, false, "");
            cache.input = None;
            cache.kind = MountKind::Cache { id: id.into(), sharing };
            let mut exec = exec(vec![mount("/", 0, Some(0), false, ""), cache]);
            exec.meta.args = vec!["/busybox".into(), "true".into()];
            exec.meta.cwd = "/".into();
            exec.meta.env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()];
            exec.meta.remove_mount_stubs_recursive = true;
            let op = digest(&exec, &platform);
            Digest::of(format!("{op}@0")).hex()[..12].to_owned()
        };
        assert_eq!(key("//pkg", CacheSharing::Shared), "23dc430f834c");
        for (id, sharing) in [
            ("//pkg", CacheSharing::Locked),
            ("//pkg", CacheSharing::Private),
            ("/k", CacheSharing::Shared),
            ("/k2", CacheSharing::Private),
        ] {
            assert_eq!(key(id, sharing), "512425e277c7", "{id}");
        }
    }

    #[test]
    fn what_must_not_matter_does_not() {
        let platform = Platform::parse("linux/amd64").unwrap();
        let plain = exec(vec![mount("/", 0, Some(0), false, "")]);
        let mut other = plain.clone();
        other.meta.proxy_env = Some(ProxyEnv { http_proxy: "x".into(), ..ProxyEnv::default() });
        other.meta.extra_hosts = vec![HostIp { host: "db".into(), ip: "10.0.0.1".into() }];
        let mut moved = other.clone();
        moved.meta.extra_hosts[0].ip = "10.0.0.2".into();
        moved.meta.proxy_env = None;
        assert_eq!(digest(&other, &platform), digest(&moved, &platform));
        assert_ne!(digest(&plain, &platform), digest(&moved, &platform));
        let arm = Platform::parse("linux/arm64").unwrap();
        assert_ne!(digest(&plain, &platform), digest(&plain, &arm));
        let mut user = plain.clone();
        user.meta.user = "app".into();
        assert_ne!(digest(&plain, &platform), digest(&user, &platform));
    }

    #[test]
    fn only_inputs_that_are_read_and_not_kept_are_named_by_content() {
        let exec = exec(vec![
            mount("/", 0, Some(0), false, ""),
            mount("/src", 1, None, true, "a/../src"),
            mount("/more", 1, None, false, ""),
            mount("/out", 2, Some(1), false, ""),
            mount("/one", 3, None, true, "x"),
            mount("/two", 3, None, true, "/x/"),
        ]);
        let named: Vec<bool> = (0..5).map(|input| by_content(&exec, input)).collect();
        assert_eq!(named, [false, true, false, true, false]);
        assert_eq!(selectors(&exec, 1), [Selector::followed("/src"), Selector::followed("/")]);
        assert_eq!(selectors(&exec, 3), [Selector::followed("/x"), Selector::followed("/x")]);
        assert_eq!(selectors(&exec, 0), [Selector::followed("/")]);
    }

    #[test]
    fn a_root_is_never_named_by_content() {
        let exec = exec(vec![mount("/", 0, None, true, "")]);
        assert!(!by_content(&exec, 0));
    }
}
