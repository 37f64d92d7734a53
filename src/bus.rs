//! Stand-in until the bus is merged.
#[derive(Debug)]
pub struct Delivery;
impl Delivery {
    pub fn body(&self) -> &[u8] {
        &[]
    }
    pub fn redelivered(&self) -> bool {
        false
    }
    pub fn delivery_count(&self) -> u64 {
        0
    }
    pub fn ack(self) {}
    pub fn dead_letter(self, _f: crate::deadletter::Failure) {}
}
