pub mod browser;
pub mod gateway;
pub mod guest;
pub mod http;
pub mod load;
pub mod node;
pub mod processes;
pub mod rawnode;
pub mod tls;
pub mod wait;

pub use gateway::TestGateway;
pub use http::{Answer, Client};
pub use node::{Reply, TestNode};
pub use wait::until;

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}
