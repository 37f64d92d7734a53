//! The demo's scenario through the broker: every counter against the model.

use crate::events::Wire;
use crate::kit::model::Model;
use crate::kit::read_back;
use crate::kit::scenario::{Kind, Scenario};
use crate::kit::service::Result;
use crate::world::{World, client};

#[tokio::test]
async fn a_disturbed_scenario_counts_as_the_model() -> Result<()> {
    for seed in [1, 2, 3] {
        let scenario = Scenario::small(seed);
        let world = World::new(&format!("scenario_{seed}"));
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
        let comparison = read_back::compare(&mut client(&service).await?, &model).await?;
        assert!(comparison.compared > 100);
        let differences: Vec<_> = comparison
            .differences
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(differences.is_empty(), "seed {seed}: {differences:#?}");

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
