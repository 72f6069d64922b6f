//! How large each ReplicaSet should be: arithmetic over what is there.
//!
//! Source of the rules: the Deployment documentation (maxSurge, maxUnavailable, proportional scaling).

use super::{DESIRED, MAX, Picture, count, size};
use serde_json::Value;

/// `maxSurge` in pods: percentages of the desired number, rounded up.
pub fn surge(p: &Picture<'_>) -> i64 {
    if p.rolling() { bound(p, "maxSurge", true) } else { 0 }
}

/// `maxUnavailable` in pods: percentages rounded down; at least 1 when the surge is 0 too.
pub fn unavailable(p: &Picture<'_>) -> i64 {
    if !p.rolling() {
        return 0;
    }
    let n = bound(p, "maxUnavailable", false);
    if n == 0 && surge(p) == 0 { 1 } else { n.min(p.desired()) }
}

fn bound(p: &Picture<'_>, field: &str, up: bool) -> i64 {
    match &p.deployment["spec"]["strategy"]["rollingUpdate"][field] {
        Value::String(s) => {
            let percent: i64 = s.trim_end_matches('%').parse().unwrap_or(25);
            (percent * p.desired() + if up { 99 } else { 0 }) / 100
        }
        Value::Number(n) => n.as_i64().unwrap_or(0),
        _ => (25 * p.desired() + if up { 99 } else { 0 }) / 100,
    }
}

fn total(p: &Picture<'_>) -> i64 {
    p.all().map(size).sum()
}

/// Size of a new ReplicaSet that does not exist yet.
pub fn first_size(p: &Picture<'_>) -> i64 {
    (p.desired() + surge(p) - total(p)).clamp(0, p.desired())
}

/// New size of the new ReplicaSet, if it should change now.
pub fn grow_new(p: &Picture<'_>, new: &Value) -> Option<i64> {
    let have = size(new);
    let to = if have > p.desired() {
        p.desired()
    } else {
        have + (p.desired() + surge(p) - total(p)).clamp(0, p.desired() - have)
    };
    (to != have).then_some(to)
}

/// Old ReplicaSets to shrink now, with their new sizes: unhealthy pods go first, healthy ones as far as
/// `maxUnavailable` allows.
pub fn shrink_old<'a>(p: &Picture<'a>, new: &Value) -> Vec<(&'a Value, i64)> {
    let min_available = p.desired() - unavailable(p);
    let new_unavailable = (size(new) - count(new, "availableReplicas")).max(0);
    let mut spare = total(p) - min_available - new_unavailable;
    let mut sizes: Vec<(&Value, i64)> = p.old.iter().map(|rs| (*rs, size(rs))).collect();
    for (rs, to) in &mut sizes {
        let unhealthy = (*to - count(rs, "availableReplicas")).max(0);
        let gone = unhealthy.min(spare).max(0);
        *to -= gone;
        spare -= gone;
    }
    let available: i64 = p.all().map(|rs| count(rs, "availableReplicas")).sum();
    let mut healthy_spare = available - min_available;
    for (_, to) in &mut sizes {
        let gone = (*to).min(healthy_spare).max(0);
        *to -= gone;
        healthy_spare -= gone;
    }
    sizes.into_iter().filter(|(rs, to)| size(rs) != *to).collect()
}

/// The desired number has changed since the ReplicaSets were sized.
pub fn is_scaling(p: &Picture<'_>) -> bool {
    p.all().filter(|rs| size(rs) > 0).any(|rs| {
        rs["metadata"]["annotations"][DESIRED]
            .as_str()
            .is_some_and(|s| s != p.desired().to_string())
    })
}

/// Sizes after a change of the desired number in the middle of a rollout (or while paused): each ReplicaSet keeps
/// its share; what rounding leaves over goes to the largest.
pub fn proportional<'a>(p: &Picture<'a>) -> Vec<(&'a Value, i64)> {
    let mut active: Vec<&Value> = p.all().filter(|rs| size(rs) > 0).collect();
    let single = match (active.as_slice(), p.new) {
        ([], Some(new)) => Some(new),
        ([one], _) => Some(*one),
        _ => p.new.filter(|new| {
            count(new, "availableReplicas") == p.desired() && size(new) == p.desired()
        }),
    };
    if let Some(one) = single {
        let others =
            p.all().filter(|rs| size(rs) > 0 && rs["metadata"]["uid"] != one["metadata"]["uid"]);
        let mut sizes = vec![(one, p.desired())];
        if active.len() > 1 {
            sizes.extend(others.map(|rs| (rs, 0)));
        }
        return sizes;
    }
    let sum: i64 = active.iter().map(|rs| size(rs)).sum();
    let allowed = if p.desired() > 0 { p.desired() + surge(p) } else { 0 };
    let mut to_add = allowed - sum;
    // The largest first, of equals the newest.
    active.reverse();
    active.sort_by_key(|rs| std::cmp::Reverse(size(rs)));
    let mut sizes: Vec<(&Value, i64)> = Vec::new();
    for rs in &active {
        let old_max = rs["metadata"]["annotations"][MAX]
            .as_str()
            .and_then(|s| s.parse::<i64>().ok())
            .unwrap_or(sum);
        let share = if to_add == 0 || old_max <= 0 {
            0
        } else {
            let exact = (size(rs) * allowed) as f64 / old_max as f64;
            let part = exact.round() as i64 - size(rs);
            if to_add > 0 { part.clamp(0, to_add) } else { part.clamp(to_add, 0) }
        };
        to_add -= share;
        sizes.push((rs, (size(rs) + share).max(0)));
    }
    if let Some(first) = sizes.first_mut() {
        first.1 = (first.1 + to_add).max(0);
    }
    sizes
}
