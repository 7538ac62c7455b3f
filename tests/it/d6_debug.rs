//! D6: entering a step that failed, a step before it runs, and what was built.

use rbuild_tests::{TestDaemon, TestSpace};

/// Two stages, mounts of all kinds, and a last step that ends with `exit CODE`.
fn space(code: u8) -> TestSpace {
    let space = TestSpace::new();
    space.write("secret", "hush");
    space.write(
        "Dockerfile",
        format!(
            "FROM busybox AS data\nRUN echo given > /given\n\
             FROM busybox\nWORKDIR /w\nENV A=b\n\
             RUN --mount=from=data,target=/data --mount=type=cache,target=/c --mount=type=tmpfs,target=/t \
             --mount=type=secret,id=s --mount=type=secret,id=s,env=S \\\n  echo cached > /c/f; echo wrote > out; exit {code}\nCMD echo run by $(pwd)\n"
        ),
    );
    space
}

#[test]
fn the_failed_step_is_entered_as_it_was_left() {
    let daemon = TestDaemon::start();
    let space = space(9);
    let command =
        "cat out /data/given /c/f /run/secrets/s; echo; pwd; echo $A $S; touch /t/x && echo tmp; exit 3";
    let invoke = format!("--invoke=on-error,command={command}");
    let args = ["build", "--progress=plain", "--secret", "id=s,src=secret", &invoke, "."];
    let output = daemon.ctl(space.path(), &args).failure();
    // The build has failed, whatever was done in there.
    assert_eq!(output.code, Some(1));
    assert_eq!(output.stdout, "wrote\ngiven\ncached\nhush\n/w\nb hush\ntmp\n");
    output.has("in the failed step [stage-1 3/3] RUN --mount=from=data").has("exit code: 9");
    // What was written there is nobody's afterwards.
    let invoke = "--invoke=on-error,command=touch /trace";
    daemon.ctl(space.path(), &["build", "--secret", "id=s,src=secret", invoke, "."]).failure();
    let output = daemon.ctl(space.path(), &["debug", "build", "--secret", "id=s,src=secret", "."]).failure();
    output.has("in the failed step").has("exit code: 9");
}

#[test]
fn a_step_is_entered_before_it_runs() {
    let daemon = TestDaemon::start();
    let space = space(0);
    space.write("dest", "");
    let build = |invoke: &str| {
        daemon.ctl(space.path(), &["build", "--secret", "id=s,src=secret", "-o", "made", invoke, "."])
    };
    let output = build("--invoke=step=3/3,command=ls; cat /data/given; exit 5").failure();
    assert_eq!((output.code, output.stdout.as_str()), (Some(5), "given\n"));
    output.has("before [stage-1 3/3] RUN");
    assert!(!space.at("made").exists(), "a build that was left off before its end has no result");
    build("--invoke=step=RUN").failure().has("in the names of 2 steps");
    build("--invoke=step=RUM").failure().has("is called `RUM`; there are: [data 2/2] RUN echo given");
}

#[test]
fn what_was_built_is_entered_and_exported() {
    let daemon = TestDaemon::start();
    let space = space(0);
    let build = |invoke: &str| {
        daemon.ctl(
            space.path(),
            &["build", "--secret", "id=s,src=secret", "-o", "type=tar,dest=made.tar", invoke, "."],
        )
    };
    assert_eq!(build("--invoke=default").success().stdout, "run by /w\n");
    assert!(space.at("made.tar").exists());
    let output = build("--invoke=on=success,command=cat out; echo $X $(id -u); exit 4,env=X=y,user=1000");
    assert_eq!((output.code, output.stdout.as_str()), (Some(4), "wrote\ny 1000\n"));
    // Nothing failed, so nothing is entered.
    assert_eq!(build("--invoke=on-error,command=echo no").success().stdout, "");
    let output = daemon.ctl(space.path(), &["build", "--invoke=maybe=x", "."]).failure();
    assert_eq!(output.code, Some(2));
    output.has("`maybe` is not known");
}
