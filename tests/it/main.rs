//! End-to-end scenarios, a file per line of the acceptance list. All need root (mounts, namespaces).
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs)]

mod a1_apt;
mod a2_files;
mod a3_directives;
mod a4_instructions;
mod a5_multistage;
mod a6_static_binary;
mod a7_cache_mount;
mod a8_errors;
mod a9_checks;
mod archives;
mod b1_context;
mod b2_stdin;
mod b3_git;
mod b3_git_hostile;
mod b3_git_ssh;
mod b4_remote;
mod b5_named;
mod b6_transfer;
mod bad_input;
mod c10_cache_mounts;
mod c11_imports;
mod c1_cached;
mod c2_changes;
mod c3_concurrency;
mod c5_kill;
mod c6_cache_transport;
mod c6_gha;
mod c6_s3;
mod c7_disk;
mod c8_explain;
mod d1_load;
mod d1_outputs;
mod d2_platforms;
mod d3_imagetools;
mod d4_results;
mod d5_attestations;
mod d5_returned;
mod d6_debug;
mod d6_run;
mod daemonless;
mod debug_compile;
mod e1_observe;
mod e1_service;
mod e2_remote;
mod e5_shared_tier;
mod e5_two_networks;
mod e7_drain;
mod f1_progress;
mod f2_logs;
mod f3_history;
mod frontend_images;
mod gateway;
mod gateway_containers;
mod gateway_results;
mod layers;
mod llb_exec;
mod llb_files;
mod llb_sources;
mod llb_trees;
mod networks;
mod resources;
mod source_policy;
mod wire;
mod wire_fuzz;

/// Every file of this folder is a module of this binary: a forgotten one would never run.
#[test]
fn no_scenario_is_forgotten() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("it");
    let main = std::fs::read_to_string(here.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(here).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(module == "main" || main.contains(&format!("mod {module};")), "{name} is not in main.rs");
    }
}
