use super::*;
use crate::event::*;
use crate::derive::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speed() {
    let url = std::env::var("CHAT_COUNTERS__STORE__URL").unwrap().replace('\\', "");
    let store = Store::connect(&config::Store { url: url.into(), database: "scratch".into(), journal_retention_days: 9 }).await.unwrap();
    store.database().drop().await.unwrap();
    store.migrate(Duration::from_secs(86400)).await.unwrap();
    let (_t, shutdown) = crate::shutdown::channel();
    let mut registry = Default::default();
    let shared = Shared { store, metrics: Metrics::new(&mut registry), feed: Default::default(), types: Default::default(), lanes: Default::default(), retry: Default::default(), shutdown };
    let typed = std::env::var("TYPED").is_ok();
    let mut tasks = vec![];
    let lanes = std::env::var("LANES").map(|l| l.parse().unwrap()).unwrap_or(2usize);
    let batch = std::env::var("BATCH").map(|l| l.parse().unwrap()).unwrap_or(1000usize);
    let t = std::time::Instant::now();
    for l in 0..lanes {
        let mut lane = Lane::new(shared.clone());
        tasks.push(tokio::spawn(async move {
            let per = 50_000 / lanes;
            let events: Vec<Event> = (0..per).map(|i| {
                let d = format!("dlg_{}", (i * lanes + l) % 500);
                let dialog = DialogId::new(&d).unwrap();
                Event {
                    tenant: TenantId::new("tnt_bench").unwrap(),
                    stamp: Stamp { at: Micros::new(1_700_000_000_000_000 + i as i64 * 1000).unwrap(), event: EventId::new(&format!("evt_0123456789abcdef_{l}_{i}")).unwrap() },
                    actor: None,
                    dialog_hint: Some(dialog.clone()),
                    fact: Fact::MessageCreated(NewMessage { dialog, message: MessageId::new(&format!("msg_0123456789abcdef_{l}_{i}")).unwrap(), sender: UserId::new(&format!("usr_{}", i % 7)).unwrap(), sender_type: typed.then(SenderType::default), sent_at: Micros::new(1_700_000_000_000_000 + i as i64 * 1000).unwrap(), system: false }),
                }
            }).collect();
            for chunk in events.chunks(batch) {
                let refs: Vec<_> = chunk.iter().collect();
                let out = lane.attempt(&refs, Care::Presume).await.unwrap();
                assert_eq!(out.len(), chunk.len());
                assert!(out.iter().all(|o| *o == Outcome::Applied));
            }
        }));
    }
    for t in tasks { t.await.unwrap(); }
    let s = t.elapsed().as_secs_f64();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    println!("{:.0} events/s, client cpu ticks {} {}", 50_000.0 / s, f[11], f[12]);
}
