//! The text format of Prometheus, read strictly: what a scraper could take in two ways is refused.

use std::collections::{BTreeMap, BTreeSet};

/// All metrics of one scrape, by name.
pub type Metrics = BTreeMap<String, Metric>;

/// Names and values of labels, sorted.
pub type Labels = Vec<(String, String)>;

/// One metric with its samples.
#[derive(Debug, Default)]
pub struct Metric {
    pub help: String,
    pub kind: String,
    /// Full name, labels, value.
    pub samples: Vec<(String, Labels, f64)>,
}

impl Metric {
    /// The value of the only sample with these labels and no others.
    pub fn value(&self, labels: &[(&str, &str)]) -> Option<f64> {
        let mut wanted: Labels = labels
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        wanted.sort();
        let found = self.samples.iter().find(|(_, labels, _)| *labels == wanted);
        found.map(|(_, _, value)| *value)
    }
}

/// Reads a scrape, or says in which line what is wrong.
pub fn parse(text: &str) -> Result<Metrics, String> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    let mut metrics = Metrics::new();
    let mut seen = BTreeSet::new();
    let mut present: Option<String> = None;
    for (number, line) in text.lines().enumerate() {
        let wrong = |what: &str| Err(format!("line {}: {what}: {line}", number + 1));
        if let Some(help) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = help.split_once(' ') else {
                return wrong("a help without a text");
            };
            if !is_name(name) || metrics.contains_key(name) {
                return wrong("a bad name, or one that was there before");
            }
            let metric = Metric {
                help: help.to_owned(),
                ..Metric::default()
            };
            metrics.insert(name.to_owned(), metric);
            present = Some(name.to_owned());
            continue;
        }
        let Some(metric) = present.as_ref().and_then(|name| metrics.get_mut(name)) else {
            return wrong("no metric has begun");
        };
        let name = present.as_deref().unwrap_or_default();
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let kinds = ["counter", "gauge", "histogram"];
            let known = kinds.iter().find(|known| kind == format!("{name} {known}"));
            let Some(known) = known.filter(|_| metric.kind.is_empty()) else {
                return wrong("a type of another metric, a second one, or none that there is");
            };
            metric.kind = known.to_string();
            continue;
        }
        if metric.kind.is_empty() {
            return wrong("a sample before its type");
        }
        let Some((full_name, labels, value)) = sample(line) else {
            return wrong("no sample");
        };
        let suffixes: &[&str] = match &*metric.kind {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let belongs = suffixes
            .iter()
            .any(|suffix| full_name == format!("{name}{suffix}"));
        if !belongs || !seen.insert((full_name.clone(), labels.clone())) {
            return wrong("a sample of another metric, or one that was there before");
        }
        if metric.kind != "gauge" && (value < 0.0 || !value.is_finite()) {
            return wrong("no count");
        }
        metric.samples.push((full_name, labels, value));
    }
    for (name, metric) in &metrics {
        if metric.kind.is_empty() {
            return Err(format!("{name} has no type"));
        }
        if metric.kind == "histogram" {
            check_histogram(name, metric)?;
        }
    }
    Ok(metrics)
}

/// Name, labels and value of a line.
fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let mut labels = Labels::new();
    let mut rest = rest;
    if let Some(inside) = rest.strip_prefix('{') {
        let mut inside = inside;
        loop {
            let (label, value) = inside.split_once("=\"")?;
            let (value, after) = quoted(value)?;
            if !is_name(label) || labels.iter().any(|(name, _)| name == label) {
                return None;
            }
            labels.push((label.to_owned(), value));
            let Some(next) = after.strip_prefix(',') else {
                rest = after.strip_prefix('}')?;
                break;
            };
            inside = next;
        }
    }
    labels.sort();
    let value = rest.strip_prefix(' ')?;
    let plain = value
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    (is_name(name) && plain).then_some((name.to_owned(), labels, value.parse().ok()?))
}

/// The value up to the closing quotation mark, and what follows that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped @ ('"' | '\\') => value.push(escaped),
                _ => return None,
            },
            _ => value.push(char),
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(allowed)
        && name
            .bytes()
            .next()
            .is_some_and(|byte| !byte.is_ascii_digit())
}

/// The bounds and the counts of each series rise, and the last bucket is the count.
fn check_histogram(name: &str, metric: &Metric) -> Result<(), String> {
    let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts: BTreeMap<Labels, f64> = BTreeMap::new();
    let mut sums = BTreeSet::new();
    for (full_name, labels, value) in &metric.samples {
        let mut labels = labels.clone();
        if full_name.ends_with("_bucket") {
            let place = labels.iter().position(|(label, _)| label == "le");
            let place = place.ok_or(format!("{name}: a bucket without a bound"))?;
            let bound = labels.remove(place).1;
            let bound = match &*bound {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().map_err(|_| format!("{name}: le {bound}"))?,
            };
            series.entry(labels).or_default().push((bound, *value));
        } else if full_name.ends_with("_count") {
            counts.insert(labels, *value);
        } else {
            sums.insert(labels);
        }
    }
    for (labels, buckets) in &series {
        let rises = buckets
            .windows(2)
            .all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
        let last = buckets.last().copied();
        let count = counts.get(labels).map(|count| (f64::INFINITY, *count));
        if !rises || last != count || !sums.contains(labels) {
            return Err(format!("{name} {labels:?}: {buckets:?}, {count:?}"));
        }
    }
    if series.len() == counts.len() && series.len() == sums.len() {
        Ok(())
    } else {
        Err(format!("{name}: a count or a sum without buckets"))
    }
}
