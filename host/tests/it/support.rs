pub mod gateway;
pub mod guest;
pub mod http;
pub mod load;
pub mod node;
pub mod processes;
pub mod wait;

pub use gateway::TestGateway;
pub use http::{Answer, Client};
pub use node::{Reply, TestNode};
pub use wait::until;
