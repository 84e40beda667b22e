//! Multiple-choice knapsack, exactly: one choice from every group, the least loss at every cost.
//!
//! Group after group, the sums of cost and loss that are worth keeping are extended by every choice
//! of the next group. One that costs at least as much as another and loses at least as much is
//! dominated: whatever is added later, the other stays better. What remains after the last group is
//! the whole trade-off, so a single run answers every budget (Nemhauser and Ullmann 1969; Kellerer,
//! Pferschy and Pisinger, *Knapsack Problems*, 2004, chapter 11). No cost is rounded.
//!
//! ```
//! use lb_resnet::knapsack::{Choice, Frontier};
//!
//! let choice = |cost, loss| Choice { cost, loss };
//! // Two layers at 2, 4 or 8 bits: the second one suffers more.
//! let layers = [
//!     vec![choice(2, 0.3), choice(4, 0.1), choice(8, 0.0)],
//!     vec![choice(2, 0.9), choice(4, 0.2), choice(8, 0.0)],
//! ];
//! let frontier = Frontier::new(&layers);
//! let best = frontier.within(10).unwrap();
//! assert_eq!(frontier.choices(best), [0, 2]); // 2 bits for the first, 8 for the second
//! assert_eq!(frontier.within(3), None);
//! ```

/// One way to settle a group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What it costs, in any unit.
    pub cost: u64,
    /// What it loses. Sums of losses are compared; they may be negative.
    pub loss: f64,
}

/// Every combination that no other beats in both cost and loss, by rising cost and falling loss.
#[derive(Clone, Debug)]
pub struct Frontier {
    points: Vec<Choice>,
    /// Of every group, for every sum that was kept: the sum it extends, and the choice that did.
    steps: Vec<Vec<(u32, u32)>>,
}

impl Frontier {
    /// The trade-off of `groups`. Of equal combinations the first choices win.
    ///
    /// # Panics
    /// If a group has no choice, a loss is NaN, or more than 2³² sums are worth keeping.
    pub fn new(groups: &[Vec<Choice>]) -> Self {
        let mut points = vec![Choice { cost: 0, loss: 0.0 }];
        let mut steps = Vec::with_capacity(groups.len());
        for group in groups {
            let group = undominated(group.iter().copied());
            let extended = points.iter().enumerate().flat_map(|(parent, point)| {
                group.iter().map(move |(choice, c)| {
                    let sum = Choice {
                        cost: point.cost + c.cost,
                        loss: point.loss + c.loss,
                    };
                    (sum, (parent, *choice))
                })
            });
            let extended: Vec<_> = extended.collect();
            let kept = undominated(extended.iter().map(|e| e.0));
            let index = |i: usize| u32::try_from(i).expect("fewer than 2^32 sums");
            let step = |&(i, _): &(usize, Choice)| {
                let (parent, choice) = extended[i].1;
                (index(parent), index(choice))
            };
            steps.push(kept.iter().map(step).collect());
            points = kept.into_iter().map(|k| k.1).collect();
        }
        Self { points, steps }
    }

    /// Cost and loss of every combination, by rising cost and falling loss.
    pub fn points(&self) -> &[Choice] {
        &self.points
    }

    /// The point with the least loss among those of at most this cost.
    pub fn within(&self, cost: u64) -> Option<usize> {
        self.points
            .partition_point(|p| p.cost <= cost)
            .checked_sub(1)
    }

    /// Of every group, the choice that point `point` makes.
    ///
    /// # Panics
    /// If there is no such point.
    pub fn choices(&self, point: usize) -> Vec<usize> {
        assert!(point < self.points.len(), "no such point");
        let mut at = point;
        let mut choices: Vec<usize> = (self.steps.iter().rev())
            .map(|step| {
                let (parent, choice) = step[at];
                at = parent as usize;
                choice as usize
            })
            .collect();
        choices.reverse();
        choices
    }
}

/// The choices that no other beats, with their places, by rising cost.
fn undominated(choices: impl Iterator<Item = Choice>) -> Vec<(usize, Choice)> {
    let mut all: Vec<(usize, Choice)> = choices.enumerate().collect();
    assert!(!all.is_empty(), "a group without a choice");
    assert!(all.iter().all(|c| !c.1.loss.is_nan()), "a loss is NaN");
    all.sort_by(|(i, a), (j, b)| {
        (a.cost.cmp(&b.cost))
            .then(a.loss.total_cmp(&b.loss))
            .then(i.cmp(j))
    });
    let mut least = f64::INFINITY;
    // An infinite loss is kept if nothing else is.
    let first = all[0].0;
    all.retain(|&(i, c)| {
        let better = c.loss < least || i == first;
        least = least.min(c.loss);
        better
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every combination, counted like the digits of a clock.
    fn brute_force(groups: &[Vec<Choice>]) -> Vec<(Vec<usize>, Choice)> {
        let mut all = vec![(Vec::new(), Choice { cost: 0, loss: 0.0 })];
        for group in groups {
            let extend = |(picked, sum): &(Vec<usize>, Choice)| {
                let (picked, sum) = (picked.clone(), *sum);
                let with = move |(i, c): (usize, &Choice)| {
                    let picked = picked.iter().copied().chain([i]).collect();
                    let sum = Choice {
                        cost: sum.cost + c.cost,
                        loss: sum.loss + c.loss,
                    };
                    (picked, sum)
                };
                group.iter().enumerate().map(with).collect::<Vec<_>>()
            };
            all = all.iter().flat_map(extend).collect();
        }
        all
    }

    fn groups() -> impl Strategy<Value = Vec<Vec<Choice>>> {
        // Few different numbers, so that there are ties.
        let choice = (0u64..12, -2i32..20).prop_map(|(cost, loss)| Choice {
            cost,
            loss: f64::from(loss) * 0.25,
        });
        prop::collection::vec(prop::collection::vec(choice, 1..5), 0..6)
    }

    proptest! {
        #[test]
        fn every_budget_gets_the_best_there_is(groups in groups()) {
            let frontier = Frontier::new(&groups);
            let all = brute_force(&groups);
            for budget in 0..70 {
                let affordable = all.iter().filter(|(_, sum)| sum.cost <= budget);
                let best = affordable.map(|(_, sum)| sum.loss).reduce(f64::min);
                let found = frontier.within(budget);
                prop_assert_eq!(found.map(|i| frontier.points()[i].loss), best);
                let Some(i) = found else { continue };
                // The choices are those that the point stands for.
                let choices = frontier.choices(i);
                let sum = all.iter().find(|(picked, _)| *picked == choices).unwrap().1;
                prop_assert_eq!(sum, frontier.points()[i]);
            }
            for pair in frontier.points().windows(2) {
                prop_assert!(pair[0].cost < pair[1].cost && pair[0].loss > pair[1].loss);
            }
        }
    }

    #[test]
    fn a_hundred_groups_are_no_trouble() {
        // Sizes and losses like those of a deep network's layers.
        let group = |i: u64| {
            let size = [432, 2304, 9216, 36864][(i * 7 % 4) as usize];
            let choice = |bits: u64| Choice {
                cost: size * bits / 8,
                loss: (1.0 + (i * 37 % 11) as f64) / f64::from(1u32 << (2 * bits)),
            };
            [2, 3, 4, 6, 8].map(choice).to_vec()
        };
        let frontier = Frontier::new(&(0..100).map(group).collect::<Vec<_>>());
        let least = frontier.points()[0];
        assert!(frontier.choices(0).iter().all(|&c| c == 0));
        assert!(least.cost < frontier.points().last().unwrap().cost);
    }
}
