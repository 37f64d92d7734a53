//! RabbitMQ: the only module that names lapin.
//!
//! Surface agreed between the modules (bodies to be written):
//!
//! ```text
//! pub struct Delivery { .. }               // one message, not yet settled
//! impl Delivery {
//!     pub fn body(&self) -> &[u8];
//!     pub fn redelivered(&self) -> bool;
//!     pub fn delivery_count(&self) -> u64;  // x-delivery-count, 0 when absent
//!     pub fn ack(self);                     // each consumes the delivery:
//!     pub fn dead_letter(self, failure: deadletter::Failure);   // a double
//!     pub fn requeue(self);                 // settlement does not compile
//! }                                         // dropping = unsettled: the broker redelivers
//!
//! pub struct Consumer { .. }
//! impl Consumer {
//!     /// Connects once, checks and declares the topology; an error here is for
//!     /// the operator (wrong URL, credentials, incompatible queue).
//!     pub async fn open(config: config::Bus, retry: config::Retry, metrics: Metrics) -> Result<Consumer, BusError>;
//!     /// Supervised loop: forwards deliveries into `sink`, settles, reconnects;
//!     /// returns once a shutdown was requested, `sink` was dropped by it, every
//!     /// delivery handed out is settled or dropped, and the connection is closed.
//!     pub async fn run(self, sink: mpsc::Sender<Delivery>, shutdown: Shutdown);
//!     pub fn health(&self) -> watch::Receiver<bool>;  // connected and consuming
//! }
//!
//! pub struct Publisher { .. }              // confirms + mandatory
//! impl Publisher {
//!     pub async fn connect(config: &config::Bus) -> Result<Publisher, BusError>;
//!     pub async fn publish(&self, routing_key: &str, headers: .., body: Vec<u8>) -> Result<Confirm, BusError>;
//! }
//! ```
