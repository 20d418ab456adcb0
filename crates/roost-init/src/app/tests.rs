//! The life of apps, with a directory in the place of a control group.

use super::{App, Surroundings};
use crate::cgroup::{APP, COMMANDS, Cgroups};
use crate::children::Children;
use crate::output::Output;
use crate::process::{self, Recipe};
use crate::tasks::Tasks;
use roost_agent::proto::watch_event::Event;
use roost_agent::proto::{AppExit, Process};
use rustix::process::Signal;
use std::sync::Arc;
use std::time::Duration;

/// Nothing here takes nearly as long.
const LIMIT: Duration = Duration::from_secs(60);

fn recipe(name: &str, script: &str) -> Recipe {
    let process = Process {
        name: name.to_owned(),
        args: ["sh", "-c", script].map(str::to_owned).to_vec(),
        workdir: "/".to_owned(),
        ..Process::default()
    };
    Recipe::of_app(&process).unwrap()
}

/// Everything up to the end of an app.
async fn watch_to_end(output: &Output) -> (String, AppExit) {
    let mut cursor = output.watch(1);
    let mut text = String::new();
    loop {
        let event = tokio::time::timeout(LIMIT, output.next(&mut cursor)).await;
        match event.unwrap().unwrap().event.unwrap() {
            Event::Output(output) => text.push_str(str::from_utf8(&output.data).unwrap()),
            Event::Exit(exit) => return (text, exit),
            Event::LostBytes(lost) => panic!("{lost} bytes were lost"),
        }
    }
}

/// Sends a signal to an app once it runs; returns how it ended.
async fn end_by(signal: Signal, around: &Surroundings) -> AppExit {
    let app = App::start(vec![recipe("", "echo up; exec sleep 1000")], 0, around).unwrap();
    let mut cursor = around.output.watch(1);
    around.output.next(&mut cursor).await.unwrap();
    app.signal(signal);
    watch_to_end(&around.output).await.1
}

/// One test only: each reaps all children of this process.
#[tokio::test]
async fn an_app_is_over_when_any_of_its_processes_is() {
    if !rustix::process::getuid().is_root() {
        println!("skipped: processes get a user, which needs root");
        return;
    }
    // Directories in the place of control groups: they take what is written.
    let dir = tempfile::tempdir().unwrap();
    for file in ["cgroup.kill", "memory.events"] {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    for group in [APP, COMMANDS] {
        std::fs::create_dir(dir.path().join(group)).unwrap();
        std::fs::write(dir.path().join(group).join("cgroup.procs"), "").unwrap();
    }
    let (children, tasks) = (Children::default(), Tasks::default());
    tasks.spawn(children.reaper().unwrap());
    let around = || Surroundings {
        cgroups: Arc::new(Cgroups::open(dir.path()).unwrap()),
        children: children.clone(),
        output: Arc::new(Output::new()),
        tasks: tasks.clone(),
    };

    // The others are told to end, and may say their last words.
    let first = around();
    let helper = "trap 'echo goodbye; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let recipes = vec![recipe("web", "sleep 0.5; exit 4"), recipe("helper", helper)];
    let app = App::start(recipes, 0, &first).unwrap();
    let (text, exit) = watch_to_end(&first.output).await;
    assert_eq!((text.as_str(), exit.exit_code), ("ready\ngoodbye\n", 4));
    assert_eq!((exit.process.as_str(), exit.requested), ("web", false));
    assert!(app.has_ended());

    // Whichever it is, and however well it ends.
    let second = around();
    let recipes = vec![
        recipe("web", "trap 'exit 0' TERM; while :; do sleep 0.05; done"),
        recipe("done", "sleep 0.5; exit 0"),
    ];
    App::start(recipes, 0, &second).unwrap();
    let (_, exit) = watch_to_end(&second.output).await;
    assert_eq!((exit.process.as_str(), exit.exit_code), ("done", 0));

    // An end by a signal that was asked for is told as such.
    let exit = end_by(Signal::TERM, &around()).await;
    assert_eq!(
        (exit.exit_code, exit.signal, exit.requested),
        (143, 15, true)
    );

    // From here on a command was killed for want of memory: by itself that says
    // nothing about the app, whose end may be by a real-time signal or a kill.
    std::fs::write(dir.path().join("memory.events"), "oom_kill 1\n").unwrap();
    let exit = end_by(process::signal(37).unwrap(), &around()).await;
    assert_eq!(
        (exit.exit_code, exit.signal, exit.oom_killed),
        (165, 37, false)
    );
    let exit = end_by(Signal::KILL, &around()).await;
    assert_eq!((exit.exit_code, exit.oom_killed), (137, false));
    let third = around();
    App::start(vec![recipe("", "kill -9 $$")], 0, &third).unwrap();
    let (_, exit) = watch_to_end(&third.output).await;
    assert_eq!((exit.exit_code, exit.oom_killed), (137, true));

    // What cannot be started is named, whoever could be.
    let mut broken = recipe("web", "exit 0");
    broken.workdir = "/no/such".to_owned();
    let failure = App::start(vec![broken], 0, &around()).unwrap_err();
    assert_eq!(
        failure.message,
        "enter /no/such: No such file or directory (os error 2)"
    );
}
