//! Whether memory is flat.

/// Above the first rest, which saw everything already.
const SHARE_MAX: u64 = 10;
const KEPT_KIB: u64 = 1024;
/// Above the middle third, for the last one: what grows slowly, a jump allowed above does not hide.
const SLOPE_SHARE_MAX: u64 = 5;
const SLOPE_KIB: u64 = 512;
/// Fewer are no thirds to compare.
const THIRDS_MIN: usize = 6;

/// `rests`: KiB at each checkpoint after the first churn.
pub fn judge(rests: &[u64]) -> Result<(), String> {
    let Some((first, later)) = rests.split_first() else { return Ok(()) };
    if let Some(most) = later.iter().max().filter(|most| **most > above(*first, SHARE_MAX, KEPT_KIB)) {
        return Err(format!("memory grows: {first} KiB at the first rest, then {most} KiB: {rests:?}"));
    }
    if rests.len() < THIRDS_MIN {
        return Ok(());
    }
    let third = rests.len() / 3;
    let (before, last) = rests.split_at(rests.len() - third);
    let (middle, last) = (median(&before[third..]), median(last));
    if last > above(middle, SLOPE_SHARE_MAX, SLOPE_KIB) {
        return Err(format!("memory rises: {middle} KiB in the middle third, {last} in the last: {rests:?}"));
    }
    Ok(())
}

fn above(kib: u64, percent: u64, kept: u64) -> u64 {
    kib + kib * percent / 100 + kept
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2
}

/// Shows that it finds growth, and only that.
pub fn prove() {
    for flat in [
        &[][..],
        &[10_000],
        &[10_000, 12_024],
        &[14_692, 15_348, 15_232, 15_516],
        // Less than at first is no growth, and neither is a jump that stays.
        &[10_000, 5_000, 5_000, 5_000, 5_000, 5_000],
        &[10_000, 12_000, 12_000, 12_000, 12_000, 12_000],
        // One third's median is 1,012 KiB above the other's, as it may be; the outliers are outvoted.
        &[10_000, 10_000, 10_000, 10_000, 10_000, 11_012, 11_012],
        &[10_000, 10_000, 10_000, 10_000, 10_000, 10_000, 10_000, 12_000, 10_000],
        // Too few to tell a slope.
        &[10_000, 10_500, 11_000, 11_500, 12_000],
    ] {
        assert_eq!(judge(flat), Ok(()), "{flat:?}");
    }
    for (wrong, why) in [
        (&[10_000, 12_025][..], "grows"),
        (&[14_692, 20_256], "grows"),
        // Whenever it was; not only in the end.
        (&[10_000, 13_000, 10_000], "grows"),
        (&[10_000, 10_000, 10_000, 10_000, 11_013, 11_013], "rises"),
        (&[10_000, 10_000, 10_000, 10_000, 10_100, 10_200, 10_300, 11_400, 11_600, 11_900], "rises"),
        (&[10_000, 5_000, 5_000, 5_000, 6_000, 6_000], "rises"),
    ] {
        assert!(judge(wrong).is_err_and(|error| error.contains(why)), "{wrong:?}: {:?}", judge(wrong));
    }
}
