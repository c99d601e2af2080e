//! A node that is well but for how it answers inference: with bytes that no server would write.

use super::node::{TestNode, spawn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How it answers.
#[derive(Clone, Copy)]
pub enum Fault {
    /// These bytes, then the end.
    Bytes(&'static str),
    /// A reset.
    Reset,
    /// Nothing, for ever.
    Hang,
    /// These bytes, then those again and again.
    Endless(&'static str, &'static str),
    /// The same at a pace that leaves others room.
    Murmur(&'static str, &'static str),
    /// These bytes one at a time.
    Slow(&'static str),
}

pub struct RawNode {
    pub address: SocketAddr,
    /// Inference calls that came.
    pub asked: Arc<AtomicUsize>,
}

impl RawNode {
    /// `node` answers everything else.
    pub async fn start(node: &TestNode, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (behind, count) = (node.address, asked.clone());
        spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                spawn(serve(stream, behind, fault, count.clone()));
            }
        });
        Self { address, asked }
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// One connection: what is not inference goes to the node behind, the connection with it.
async fn serve(mut stream: TcpStream, behind: SocketAddr, fault: Fault, asked: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|at| at == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    if !head.starts_with(b"POST /v1/") {
        // One request a connection, so that the next is looked at, too.
        let head = String::from_utf8(head).unwrap().replacen("\r\n", "\r\nconnection: close\r\n", 1);
        let mut node = TcpStream::connect(behind).await.unwrap();
        node.write_all(head.as_bytes()).await.unwrap();
        let _either_left = tokio::io::copy_bidirectional(&mut stream, &mut node).await;
        return;
    }
    asked.fetch_add(1, Ordering::SeqCst);
    // The gateway may leave at any moment, and some of these make it.
    let _it_left = answer(&mut stream, fault).await;
}

async fn answer(stream: &mut TcpStream, fault: Fault) -> std::io::Result<()> {
    match fault {
        Fault::Bytes(bytes) => stream.write_all(bytes.as_bytes()).await,
        Fault::Reset => stream.set_zero_linger(),
        Fault::Hang => std::future::pending().await,
        Fault::Endless(first, again) => {
            stream.write_all(first.as_bytes()).await?;
            loop {
                stream.write_all(again.as_bytes()).await?;
            }
        }
        Fault::Murmur(first, again) => {
            stream.write_all(first.as_bytes()).await?;
            loop {
                stream.write_all(again.as_bytes()).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Fault::Slow(bytes) => {
            for byte in bytes.as_bytes() {
                stream.write_all(&[*byte]).await?;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Ok(())
        }
    }
}
