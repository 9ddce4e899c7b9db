//! A health page whose status and text a test switches.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{host::Host, listening::listen};

/// How often a server looks whether it shall stop.
const STOP_POLL: Duration = Duration::from_millis(20);

/// How long a client may take for its request.
const REQUEST_BOUND: Duration = Duration::from_secs(2);

/// An HTTP server on a machine that gives one answer to everything.
#[derive(Debug)]
pub struct HealthPage {
    host: Host,
    port: u16,
    state: Arc<State>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

#[derive(Debug, Default)]
struct State {
    answer: Mutex<(u16, String)>,
    requests: Mutex<Vec<String>>,
}

impl HealthPage {
    /// Starts a server on TCP `port`, IPv4 and IPv6, that answers 200 and `ok`.
    ///
    /// # Panics
    ///
    /// If the port is taken.
    #[must_use]
    pub fn start(host: &Host, port: u16) -> Self {
        let state = State {
            answer: Mutex::new((200, "ok".to_owned())),
            ..State::default()
        };
        let mut page = Self {
            host: host.clone(),
            port,
            state: Arc::new(state),
            running: None,
        };
        page.resume();
        page
    }

    /// Answers `status` and `body` from here on.
    pub fn answer(&self, status: u16, body: &str) {
        *self.state.answer.lock().expect("the server does not panic") = (status, body.to_owned());
    }

    /// Returns the heads of the requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state
            .requests
            .lock()
            .expect("the server does not panic")
            .clone()
    }

    /// Closes the port: connections are refused.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.store(true, Ordering::Relaxed);
            thread.join().expect("the server does not panic");
        }
    }

    /// Opens the port again after [`Self::stop`].
    ///
    /// # Panics
    ///
    /// If the port is taken.
    pub fn resume(&mut self) {
        self.stop();
        let listener = self.host.net().enter(|| open(self.port));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (stop, state) = (Arc::clone(&stop), Arc::clone(&self.state));
            move || serve(&listener, &state, &stop)
        });
        self.running = Some((stop, thread));
    }
}

impl Drop for HealthPage {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.store(true, Ordering::Relaxed);
            // A panic in the thread has been printed; a second one here would abort the test.
            let _ = thread.join();
        }
    }
}

fn open(port: u16) -> TcpListener {
    let socket = listen(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    // Accepting gives up after this long, so that the server sees when to stop.
    socket
        .set_read_timeout(Some(STOP_POLL))
        .expect("a timeout can be set");
    socket.into()
}

fn serve(listener: &TcpListener, state: &State, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok((connection, _)) = listener.accept() {
            // A probe that goes away early is no fault of the page.
            let _ = answer(connection, state);
        }
    }
}

fn answer(mut connection: TcpStream, state: &State) -> std::io::Result<()> {
    connection.set_read_timeout(Some(REQUEST_BOUND))?;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let length = connection.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..length]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    state
        .requests
        .lock()
        .expect("nobody panics with the lock")
        .push(head);
    let (status, body) = state
        .answer
        .lock()
        .expect("nobody panics with the lock")
        .clone();
    write!(
        connection,
        "HTTP/1.1 {status} Answer\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    // In two writes without delay: a text that is looked for may span segments.
    connection.set_nodelay(true)?;
    let (first, second) = body.as_bytes().split_at(body.len() / 2);
    connection.write_all(first)?;
    connection.write_all(second)
}
