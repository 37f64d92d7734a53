//! The demo's scenario through the broker: every counter against the model, over
//! every way out.

use chat_counters::config::NotifyFormat;

use crate::events::Wire;
use crate::kit::model::Model;
use crate::kit::scenario::{Kind, Scenario};
use crate::kit::service::{Result, until};
use crate::kit::subscriber::Subscriber;
use crate::kit::{read_back, read_http};
use crate::world::{World, client};

#[tokio::test]
async fn a_disturbed_scenario_counts_as_the_model() -> Result<()> {
    for seed in [1, 2, 3] {
        let scenario = Scenario::small(seed);
        let mut world = World::new(&format!("scenario_{seed}"));
        world.config.notify.format = NotifyFormat::CloudEvents;
        let buses = vec![world.config.bus.clone()];
        let subscriber = Subscriber::begin(buses, &world.config.notify).await?;
        let service = world.service().await?;
        let published = scenario.published.iter().map(|published| Wire {
            event_type: published.event_type.clone(),
            entity_type: published.entity_type.clone(),
            body: published.body.clone(),
        });
        let published: Vec<_> = published.collect();
        world.publish(&published).await?;
        service.has_settled(published.len() as u64).await?;

        let model = Model::of(&scenario.events);
        let over_grpc = read_back::compare(&mut client(&service).await?, &model).await?;
        let over_http = read_http::compare(service.http, &model).await?;
        for comparison in [over_grpc, over_http] {
            assert!(comparison.compared > 100);
            let differences = comparison.differences.iter();
            let differences: Vec<_> = differences.map(ToString::to_string).collect();
            assert!(differences.is_empty(), "seed {seed}: {differences:#?}");
        }
        let told = until("everybody is notified", || async {
            subscriber.unknown(&model).is_empty().then_some(())
        });
        let unknown = told.await.err().map(|_| subscriber.unknown(&model));
        assert_eq!(unknown, None, "seed {seed}");

        let poison = scenario.published.iter();
        let poison: Vec<_> = poison
            .filter(|p| matches!(p.kind, Kind::Poison(_)))
            .collect();
        for letter in world.letters(poison.len()).await? {
            let sent = poison.iter().find(|p| p.body == letter.body);
            let Some(Kind::Poison(reason)) = sent.map(|p| p.kind) else {
                panic!(
                    "a good event was dead-lettered: {}",
                    letter.header("x-cc-error")
                );
            };
            assert_eq!(letter.header("x-cc-reason"), reason);
        }
        service.stop().await?;
    }
    Ok(())
}
