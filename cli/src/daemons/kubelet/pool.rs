//! A few threads for calls to the runtime that block for milliseconds.

use super::Post;
use pintle_kubelet::volume::Layout;
use pintle_kubelet::work::Job;
use pintle_kubelet::worker;
use pintle_reactor::Poster;
use pintle_runtime::sandbox::{ExecConfig, Runtime};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// Threads: starts of pods wait for the kernel more than for a CPU.
const THREADS: usize = 4;

/// What a thread is asked.
enum Task {
    Job(Box<Job>),
    /// Session, sandbox, command.
    Exec(u64, String, Box<ExecConfig>),
    /// Session, sandbox, run, with standard input.
    Attach(u64, String, String, bool),
    /// Session, sandbox (none = the node itself), port.
    Dial(u64, Option<String>, u16),
    /// Sandbox, run, exec, columns, rows.
    Resize(String, String, u64, u16, u16),
}

/// The threads. They end with the process.
pub struct Pool {
    sender: Sender<Task>,
}

impl Pool {
    /// Starts the threads; results go to `poster`.
    pub fn start(
        runtime: Arc<Runtime>,
        layout: Layout,
        poster: Poster<Post>,
    ) -> Result<Pool, String> {
        let (sender, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for i in 0..THREADS {
            let (runtime, layout) = (Arc::clone(&runtime), layout.clone());
            let (receiver, poster) = (Arc::clone(&receiver), poster.clone());
            std::thread::Builder::new()
                .name(format!("worker-{i}"))
                .spawn(move || work(&runtime, &layout, &receiver, &poster))
                .map_err(|e| format!("cannot start a worker thread: {e}"))?;
        }
        Ok(Pool { sender })
    }

    fn send(&self, task: Task) {
        // The threads hold the receiver as long as the process lives.
        let _ = self.sender.send(task);
    }

    /// Carries out a job of the core's.
    pub fn job(&self, job: Job) {
        self.send(Task::Job(Box::new(job)));
    }

    /// Begins an exec; answered by `Post::Streams`.
    pub fn exec(&self, session: u64, sandbox: String, config: ExecConfig) {
        self.send(Task::Exec(session, sandbox, Box::new(config)));
    }

    /// Joins a container's streams; answered by `Post::Streams`.
    pub fn attach(&self, session: u64, sandbox: String, run: String, stdin: bool) {
        self.send(Task::Attach(session, sandbox, run, stdin));
    }

    /// Connects to a port in a sandbox, or of the node; answered by `Post::Dialed`.
    pub fn dial(&self, session: u64, sandbox: Option<String>, port: u16) {
        self.send(Task::Dial(session, sandbox, port));
    }

    /// Sets the size of a terminal.
    pub fn resize(&self, sandbox: String, run: String, exec: u64, size: (u16, u16)) {
        self.send(Task::Resize(sandbox, run, exec, size.0, size.1));
    }
}

fn work(
    runtime: &Runtime,
    layout: &Layout,
    receiver: &Mutex<Receiver<Task>>,
    poster: &Poster<Post>,
) {
    loop {
        let task = match receiver.lock() {
            Ok(receiver) => receiver.recv(),
            Err(_) => return,
        };
        let Ok(task) = task else { return };
        let post = match task {
            Task::Job(job) => Post::Done(worker::perform(runtime, layout, *job)),
            Task::Exec(session, sandbox, config) => {
                let streams = runtime.exec(&sandbox, &config);
                Post::Streams(session, streams.map_err(|e| e.to_string()))
            }
            Task::Attach(session, sandbox, run, stdin) => {
                let streams = runtime.attach(&sandbox, &run, stdin);
                Post::Streams(session, streams.map_err(|e| e.to_string()))
            }
            Task::Dial(session, sandbox, port) => {
                let stream = match sandbox {
                    Some(sandbox) => runtime.dial(&sandbox, port).map_err(|e| e.to_string()),
                    None => std::net::TcpStream::connect(("127.0.0.1", port))
                        .map_err(|e| format!("cannot connect to port {port}: {e}")),
                };
                Post::Dialed(session, stream)
            }
            Task::Resize(sandbox, run, exec, width, height) => {
                // A terminal that is gone needs no size.
                let _ = runtime.resize(&sandbox, &run, exec, width, height);
                continue;
            }
        };
        if !poster.post(post) {
            return;
        }
    }
}
