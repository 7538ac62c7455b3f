use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A way to a TCP server that counts what goes through it, for as long as the test's process lives.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens, on every address of this machine.
    pub port: u16,
    sent: Arc<AtomicU64>,
}

impl Relay {
    /// To the server on this port of loopback.
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sent = Arc::new(AtomicU64::new(0));
        let counter = sent.clone();
        spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", server)).unwrap());
                let (back, answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let counter = counter.clone();
                spawn(move || carry(client, server, &counter));
                spawn(move || carry(answers, back, &AtomicU64::new(0)));
            }
        });
        Self { port, sent }
    }

    /// Bytes from clients to the server since the last call.
    pub fn sent(&self) -> u64 {
        self.sent.swap(0, Ordering::SeqCst)
    }
}

/// Until one side closes; then the other hears of it.
fn carry(mut from: TcpStream, mut to: TcpStream, counter: &AtomicU64) {
    let mut buffer = [0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        counter.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    if let Err(err) = to.shutdown(std::net::Shutdown::Write) {
        eprintln!("relay: {err}");
    }
}

#[allow(clippy::disallowed_methods, reason = "it ends with its connection, or the process")]
fn spawn(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}
