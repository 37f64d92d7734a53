//! Making the faults of a plan happen, and undoing each.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chat_counters::config;
use mongodb::bson::doc;

use super::plan::{Fault, Kind, Target};
use super::proxy::{Proxy, Way};
use super::replica::Replica;
use super::stage::{Stage, admin};
use crate::kit::broker;
use crate::kit::service::{Result, until};

/// Seconds in which a primary that stepped down does not become one again.
const STEPPED_DOWN_SECONDS: i32 = 2;
/// A broker that has not deleted an exchange by then is down or frozen.
const DELETED: Duration = Duration::from_secs(3);

/// Notes what happens, and when: for whoever looks for the cause of a
/// difference.
pub(crate) struct Record {
    began: Instant,
    file: Mutex<File>,
}

impl Record {
    pub(crate) fn new(path: &Path) -> Result<Self> {
        Ok(Self {
            began: Instant::now(),
            file: Mutex::new(File::create(path)?),
        })
    }

    /// Adds a line.
    pub(crate) fn note(&self, what: &str) {
        let now = time::OffsetDateTime::now_utc();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // The run itself is of more worth than its record.
        let _ = writeln!(
            file,
            "{now} {:7.3} {what}",
            self.began.elapsed().as_secs_f64()
        );
    }
}

/// Lets faults happen one after the other until `end`; each is over before the
/// next, and when this returns. Which ones happened.
async fn lane(
    faults: &[Fault],
    end: Instant,
    record: &Record,
    mut happen: impl AsyncFnMut(&Fault) -> Result<()>,
) -> Result<Vec<Kind>> {
    let mut happened = Vec::new();
    for fault in faults {
        tokio::time::sleep(fault.after).await;
        if Instant::now() >= end {
            break;
        }
        let (what, lasts) = (fault.kind.text(), fault.lasts);
        record.note(&format!("begin  {what} ({:?}), {lasts:?}", fault.target));
        let outcome = happen(fault).await;
        record.note(&format!("over   {what}"));
        outcome.map_err(|error| format!("{what}: {error}"))?;
        happened.push(fault.kind);
    }
    Ok(happened)
}

/// What happens to one replica.
pub(crate) async fn to_replica(
    replica: &mut Replica,
    faults: &[Fault],
    end: Instant,
    record: &Record,
) -> Result<Vec<Kind>> {
    lane(faults, end, record, async |fault: &Fault| {
        match fault.kind {
            Kind::ReplicaFrozen => replica.freeze().await?,
            Kind::ReplicaStopped => replica.stop().await?,
            _ => replica.kill().await?,
        }
        tokio::time::sleep(fault.lasts).await;
        match fault.kind {
            Kind::ReplicaFrozen => replica.wake().await,
            _ => replica.start().await,
        }
    })
    .await
}

/// What happens to the brokers.
pub(crate) async fn to_brokers(
    stage: &Stage,
    faults: &[Fault],
    end: Instant,
    record: &Record,
) -> Result<Vec<Kind>> {
    lane(faults, end, record, async |fault: &Fault| {
        let broker = &one(&stage.brokers, fault)[0];
        let (begin, undo) = match fault.kind {
            Kind::BrokerFrozen => ("pause", "resume"),
            Kind::BrokerStopped => ("stop", "start"),
            _ => ("kill", "start"),
        };
        broker.run(begin).await?;
        tokio::time::sleep(fault.lasts).await;
        match undo {
            "start" => broker.start().await,
            verb => broker.run(verb).await,
        }
    })
    .await
}

/// What happens on the way from the replicas to the brokers.
pub(crate) async fn to_bus(
    stage: &Stage,
    direct: &[config::Bus],
    faults: &[Fault],
    end: Instant,
    record: &Record,
) -> Result<Vec<Kind>> {
    lane(faults, end, record, async |fault: &Fault| {
        if fault.kind == Kind::ExchangeDeleted {
            return delete_exchange(direct).await;
        }
        let proxies = match fault.target {
            Target::Every => &stage.bus,
            Target::One(_) => one(&stage.bus, fault),
        };
        on_the_way(proxies, fault).await
    })
    .await
}

/// What happens to the database and on the way to it.
pub(crate) async fn to_store(
    stage: &Stage,
    faults: &[Fault],
    end: Instant,
    record: &Record,
) -> Result<Vec<Kind>> {
    lane(faults, end, record, async |fault: &Fault| {
        let primary = stage.primary().await?;
        let server = &stage.databases[primary];
        let (begin, undo) = match fault.kind {
            Kind::PrimaryKilled => ("kill", "start"),
            Kind::PrimaryFrozen => ("pause", "resume"),
            Kind::PrimaryStepsDown => {
                let command = doc! { "replSetStepDown": STEPPED_DOWN_SECONDS, "force": true };
                // It may close this connection, too.
                let _ = admin(server, command).await;
                tokio::time::sleep(fault.lasts).await;
                return Ok(());
            }
            _ if fault.target == Target::Every => return on_the_way(&stage.store, fault).await,
            _ => return on_the_way(&stage.store[primary..][..1], fault).await,
        };
        server.run(begin).await?;
        tokio::time::sleep(fault.lasts).await;
        server.run(undo).await
    })
    .await
}

/// The last fault of a run, on all ways to the bus or to the store.
pub(crate) async fn last(
    stage: &Stage,
    direct: &[config::Bus],
    fault: &Fault,
    record: &Record,
) -> Result<Vec<Kind>> {
    let far = Instant::now() + fault.lasts;
    let faults = std::slice::from_ref(fault);
    match fault.kind {
        Kind::BusCut | Kind::BusStalled => to_bus(stage, direct, faults, far, record).await,
        _ => to_store(stage, faults, far, record).await,
    }
}

/// The one of several that a fault meets.
fn one<'s, T>(several: &'s [T], fault: &Fault) -> &'s [T] {
    let index = match fault.target {
        Target::One(index) => index % several.len(),
        Target::Every => 0,
    };
    &several[index..=index]
}

/// Deletes the exchange of the events, at whichever broker does it; the load
/// declares it again, and only the service binds its queue to it.
async fn delete_exchange(brokers: &[config::Bus]) -> Result<()> {
    let delete = async |bus: &config::Bus| -> Result<()> {
        let (connection, channel) = broker::channel(bus).await?;
        broker::delete_exchange(&channel, bus).await?;
        connection.close(200, "done".into()).await?;
        Ok(())
    };
    until("a broker deletes the exchange", || async {
        for bus in brokers {
            let deleted = tokio::time::timeout(DELETED, delete(bus)).await;
            if deleted.is_ok_and(|deleted| deleted.is_ok()) {
                return Some(());
            }
        }
        None
    })
    .await
}

async fn on_the_way(proxies: &[Proxy], fault: &Fault) -> Result<()> {
    let way = match fault.kind {
        Kind::BusCut | Kind::StoreCut => Way::Cut,
        Kind::BusStalled | Kind::StoreStalled => Way::Stalled,
        _ => Way::Slow(fault.delay),
    };
    proxies.iter().for_each(|proxy| proxy.set(way));
    tokio::time::sleep(fault.lasts).await;
    proxies.iter().for_each(|proxy| proxy.set(Way::Open));
    Ok(())
}
