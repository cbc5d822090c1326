//! What separates the places that work from those that do not.
//!
//! For each attribute (node, zone, interface …) the score is the share of the uncertainty about the
//! outcome that knowing the attribute removes: 0.00 says that it has nothing to do with it, 1.00
//! that it decides it. An attribute with a value of its own for every place (the pod's name) would
//! trivially score 1.00 and explain nothing; it is reported as not explaining.

use std::collections::BTreeMap;

use serde::Serialize;

/// The attributes of one place that may explain its outcome, and the outcome.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Value by attribute name; every sample has the same names.
    pub attributes: Vec<(&'static str, String)>,
    /// Whether it works.
    pub works: bool,
}

/// How well one attribute explains the outcomes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// The attribute.
    pub attribute: &'static str,
    /// 0.0 nothing … 1.0 everything; 0.0 too for an attribute without two equal values.
    pub score: f64,
    /// How many values it has among the places.
    pub values: usize,
}

/// Scores of all attributes in the order of the samples' attributes. Empty without samples.
pub fn scores(samples: &[Sample]) -> Vec<Score> {
    let Some(first) = samples.first() else {
        return Vec::new();
    };
    let total = entropy(samples.iter().map(|s| s.works));
    (0..first.attributes.len())
        .map(|i| score(samples, i, total))
        .collect()
}

/// The attribute that decides the outcome: score 1.00 with the fewest values, the first of equals.
pub fn decisive(scores: &[Score]) -> Option<&Score> {
    scores
        .iter()
        .filter(|s| s.score > 0.999)
        .min_by_key(|s| s.values)
}

fn score(samples: &[Sample], index: usize, total: f64) -> Score {
    let mut by_value: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
    for sample in samples {
        let value = sample.attributes[index].1.as_str();
        by_value.entry(value).or_default().push(sample.works);
    }
    let count = samples.len() as f64;
    let left: f64 = by_value
        .values()
        .map(|works| works.len() as f64 / count * entropy(works.iter().copied()))
        .sum();
    let trivial = by_value.len() == samples.len() && samples.len() > 1;
    let score = if total == 0.0 || trivial {
        0.0
    } else {
        1.0 - left / total
    };
    Score {
        attribute: samples[0].attributes[index].0,
        score,
        values: by_value.len(),
    }
}

/// Shannon entropy of a list of outcomes, in bits.
fn entropy(outcomes: impl Iterator<Item = bool>) -> f64 {
    let (mut works, mut all) = (0.0_f64, 0.0_f64);
    for outcome in outcomes {
        all += 1.0;
        if outcome {
            works += 1.0;
        }
    }
    [works, all - works]
        .into_iter()
        .filter(|n| *n > 0.0)
        .map(|n| -(n / all) * (n / all).log2())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rows: &[(&str, &str, &str, bool)]) -> Vec<Sample> {
        rows.iter()
            .map(|(node, eni, pod, works)| Sample {
                attributes: vec![
                    ("node", (*node).to_owned()),
                    ("ENI", (*eni).to_owned()),
                    ("pod", (*pod).to_owned()),
                ],
                works: *works,
            })
            .collect()
    }

    #[test]
    fn the_interface_decides_and_the_node_does_not() {
        let rows = [
            ("n1", "e1", "a", true),
            ("n1", "e1", "b", true),
            ("n1", "e2", "c", false),
            ("n1", "e2", "d", false),
            ("n2", "e3", "e", true),
            ("n2", "e4", "f", false),
            ("n2", "e3", "g", true),
            ("n2", "e4", "h", false),
        ];
        let scores = scores(&samples(&rows));
        let of = |name| scores.iter().find(|s| s.attribute == name).unwrap().score;
        assert!(of("node") < 0.001);
        assert!(of("ENI") > 0.999);
        assert!(
            of("pod") < 0.001,
            "a value of its own for each place explains nothing"
        );
        assert_eq!(decisive(&scores).unwrap().attribute, "ENI");
    }

    #[test]
    fn equal_outcomes_have_nothing_to_explain() {
        let scores = scores(&samples(&[
            ("n1", "e1", "a", true),
            ("n2", "e1", "b", true),
        ]));
        assert!(decisive(&scores).is_none());
    }

    #[test]
    fn part_of_the_truth_scores_between() {
        let rows = [
            ("n1", "e1", "a", true),
            ("n1", "e1", "b", true),
            ("n2", "e1", "c", true),
            ("n2", "e2", "d", false),
            ("n2", "e2", "e", false),
        ];
        let scores = scores(&samples(&rows));
        assert!(scores[0].score > 0.2 && scores[0].score < 0.8, "{scores:?}");
    }
}
