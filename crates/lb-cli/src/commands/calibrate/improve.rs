//! What comes after the sum of single losses: the same again around the network that was found, and
//! a look at networks of one width.

use std::collections::BTreeSet;

use anyhow::Result;
use lb_format::BitWidth;
use lb_resnet::assign::Tradeoff;
use lb_resnet::divergence::Divergence;
use lb_resnet::knapsack::Choice;
use lb_resnet::ptq::{self, Assignment};
use lb_resnet::sensitivity::{Place, PlaceKind, Sensitivity, WidthLoss};

use super::target::{Found, Search, Tried};

/// What a move must gain at least, of the loss of the network that it starts from: tried one after
/// the other until a network loses less.
const PRICES: [f64; 4] = [0.0, 0.003, 0.01, 0.03];

/// Whether a network meets a budget.
pub enum Fit {
    /// It does; with nanoseconds an image, if they were measured.
    Meets(Option<u64>),
    /// It does not, by so much predicted cost.
    Over(u64),
}

/// A budget, in the unit of the trade-offs that `by` makes.
pub struct Budget<'a> {
    /// Makes a trade-off of losses.
    pub by: &'a dyn Fn(&[Sensitivity]) -> Result<Tradeoff>,
    /// Predicted cost that it is worth trying.
    pub cost: u64,
    /// Measures a network.
    pub check: &'a dyn Fn(&Tried) -> Result<Fit>,
}

impl Search<'_> {
    /// The point of `tradeoff` with the least loss whose network meets `budget` when it is measured.
    ///
    /// # Errors
    /// If a network cannot be quantized or measured, or it is interrupted.
    pub fn within(&self, tradeoff: &Tradeoff, budget: &Budget) -> Result<Option<Found>> {
        let points: Vec<Choice> = tradeoff.points().collect();
        let (mut tried, mut point) = (0, tradeoff.within(budget.cost));
        while let Some(p) = point {
            tried += 1;
            let file = self.quantize(tradeoff.assignment(p))?;
            match (budget.check)(&file)? {
                Fit::Meets(ns) => {
                    return Ok(Some(Found {
                        file,
                        predicted: points[p],
                        ns,
                        tried,
                        uniform: false,
                        refined: 0,
                    }));
                }
                Fit::Over(by) => point = tradeoff.within(points[p].cost.saturating_sub(by.max(1))),
            }
        }
        Ok(None)
    }

    /// `found`, or what turns out to lose less within the same budget.
    ///
    /// # Errors
    /// As [`within`](Self::within).
    pub fn improve(&self, found: Found, budget: &Budget) -> Result<Found> {
        let kl = self.divergence(&found.file)?.kl;
        let (mut best, mut kl) = self.or_uniform(found, kl, budget)?;
        for _ in 0..self.refine {
            let Some((better, less)) = self.refined(&best, kl, budget)? else {
                break;
            };
            (best, kl) = (better, less);
        }
        Ok(best)
    }

    /// The best assignment of one width for all weights and one for all activations, if that meets
    /// the budget and loses less: losses do not quite add up, and mixing widths must not do harm.
    fn or_uniform(&self, found: Found, kl: f64, budget: &Budget) -> Result<(Found, f64)> {
        let rivals = self.rivals(&(budget.by)(&self.places)?).into_iter();
        let rival = rivals
            .filter(|(a, predicted)| self.mean_allows(a) && predicted.cost <= budget.cost)
            .min_by(|a, b| a.1.loss.total_cmp(&b.1.loss));
        let Some((assignment, predicted)) = rival else {
            return Ok((found, kl));
        };
        let file = self.quantize(assignment)?;
        let tried = found.tried + 1;
        let Fit::Meets(ns) = (budget.check)(&file)? else {
            return Ok((Found { tried, ..found }, kl));
        };
        let rival = self.divergence(&file)?.kl;
        if rival >= kl {
            return Ok((Found { tried, ..found }, kl));
        }
        let found = Found {
            file,
            predicted,
            ns,
            tried,
            uniform: true,
            refined: 0,
        };
        Ok((found, rival))
    }

    /// One width for all weights, and one for all activations; with their predictions.
    pub fn rivals(&self, tradeoff: &Tradeoff) -> Vec<(Assignment, Choice)> {
        let all = self.candidates.uniform(&self.places).into_iter();
        all.filter_map(|a| {
            let predicted = tradeoff.predict(&a)?;
            Some((a, predicted))
        })
        .collect()
    }

    /// A better network near `found`: every place may move to its next narrower or wider width, and
    /// what that gains or loses is measured with all other places as they are. `None` if no such
    /// moves together lose less.
    fn refined(&self, found: &Found, kl: f64, budget: &Budget) -> Result<Option<(Found, f64)>> {
        let now = |place: &Place| match place.kind {
            PlaceKind::Weight => found.file.assignment.weight(&place.path),
            PlaceKind::Activation => found.file.assignment.activation(&place.path),
        };
        let moves = |place: &Place| -> Option<Vec<BitWidth>> {
            let now = now(place)?;
            // The mean of activations is settled.
            if place.kind == PlaceKind::Activation && self.mean_activation_bits.is_some() {
                return Some(Vec::new());
            }
            let allowed: BTreeSet<BitWidth> = self.candidates.of(place);
            let narrower = allowed.range(..now).next_back();
            let wider = allowed.iter().find(|b| **b > now);
            Some(narrower.into_iter().chain(wider).copied().collect())
        };
        let base = ptq::unpack(&found.file.network, self.device)?;
        let keep = |place: &Place, bits| moves(place).is_some_and(|m| m.contains(&bits));
        let measured = (self.analysis).around(self.calibrated, base, &keep, self.device)?;
        // All moves that look good at once may be too much: then only those that gain most.
        for price in PRICES {
            let mut places = measured.places.clone();
            for s in &mut places {
                for w in &mut s.widths {
                    w.divergence.kl += price * kl - measured.base.kl;
                }
                let stay = Divergence {
                    kl: 0.0,
                    ..measured.base
                };
                s.widths.extend(now(&s.place).map(|bits| WidthLoss {
                    bits,
                    divergence: stay,
                }));
            }
            let Some(next) = self.within(&(budget.by)(&places)?, budget)? else {
                return Ok(None);
            };
            if next.file.assignment == found.file.assignment {
                return Ok(None);
            }
            let less = self.divergence(&next.file)?.kl;
            if less < kl {
                let predicted = Choice {
                    cost: next.predicted.cost,
                    // Relative to what it started from.
                    loss: kl + next.predicted.loss,
                };
                let better = Found {
                    predicted,
                    tried: found.tried + next.tried,
                    refined: found.refined + 1,
                    ..next
                };
                return Ok(Some((better, less)));
            }
        }
        Ok(None)
    }
}
