//! Connections that stop being HTTP: WebSockets and others, after the backend's 101 only.

use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{
    super::{failure::Failure, tunnel},
    Conversation,
    exchange::Exchange,
};

/// Both ends of what becomes a tunnel.
pub(crate) struct Both {
    pub(crate) on_client: OnUpgrade,
    pub(crate) on_backend: OnUpgrade,
}

/// Carries bytes both ways once both sides have left HTTP.
pub(crate) async fn run(conversation: Rc<Conversation>, mut exchange: Box<Exchange>, both: Both) {
    let timeouts = &conversation.front.service.timeouts;
    let switched = async { tokio::try_join!(both.on_client, both.on_backend) };
    let (client, backend) = match timeout(timeouts.header, switched).await {
        Ok(Ok(both)) => both,
        Ok(Err(_)) | Err(_) => {
            exchange.fail(Failure::ClientClosed);
            return;
        }
    };
    let Some(number) = exchange.lease.as_ref().map(|lease| lease.number) else {
        return;
    };
    let ends = conversation.worker.tunnel_ends(number);
    let mut client = TokioIo::new(client);
    let mut backend = TokioIo::new(backend);
    let ended = tunnel::run(&mut client, &mut backend, timeouts.tunnel, ends).await;
    exchange.tunnelled(ended.bytes_in, ended.bytes_out);
    // The connection was the tunnel's: it is used no more.
    exchange.lease = None;
    match ended.failure {
        None => exchange.complete(),
        Some(failure) => exchange.fail(failure),
    }
}
