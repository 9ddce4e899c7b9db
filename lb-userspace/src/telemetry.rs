//! The log, and times as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{format::Writer, time::FormatTime},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::model::{Log, LogFormat, LogLevel};

/// Sends events to standard error, in the form and from the level that the configuration says.
///
/// The environment variable `VIPD_LOG` overrides the level, by module where needed
/// (`VIPD_LOG=info,lb_userspace::control=trace`). A second call changes nothing.
pub fn start(log: &Log) {
    // The error means that a subscriber is there already, as in tests.
    let _ = tracing_subscriber::registry()
        .with(layer(log.format).with_filter(filter(log.level)))
        .try_init();
}

/// Returns which events are written. Libraries have a say from `warn` upwards only.
fn filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // h2 warns of what its peer does, as often as the peer does it.
    let configured = format!("warn,h2=error,lb_userspace={level},lb_ebpf={level}");
    std::env::var("VIPD_LOG")
        .ok()
        .and_then(|wanted| EnvFilter::try_new(wanted).ok())
        .unwrap_or_else(|| EnvFilter::new(configured))
}

fn layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_timer(Rfc3339);
    match format {
        LogFormat::Text => layer.with_target(false).with_ansi(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

/// Writes the time of an event.
struct Rfc3339;

impl FormatTime for Rfc3339 {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        w.write_str(&rfc3339(SystemTime::now()))
    }
}

/// Returns a time in UTC with milliseconds, such as `2027-01-15T08:00:00.000Z` (RFC 3339
/// section 5.6). A time before 1970 is shown as 1970, and one after 9999 as its end.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    String::from_utf8_lossy(&rfc3339_bytes(time)).into_owned()
}

/// Returns the bytes of [`rfc3339`].
#[must_use]
pub fn rfc3339_bytes(time: SystemTime) -> [u8; 24] {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis().into());
    let (year, month, day) = civil(seconds / 86_400);
    if year > 9999 {
        return *b"9999-12-31T23:59:59.999Z";
    }
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (at, two_digits) in [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, seconds / 3600 % 24),
        (14, seconds / 60 % 60),
        (17, seconds % 60),
        (20, millis / 10),
    ] {
        text[at] = digit(two_digits / 10);
        text[at + 1] = digit(two_digits);
    }
    text[22] = digit(millis);
    text
}

/// Returns the last digit of a number.
fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

/// Reads a time as [`rfc3339`] writes it; the fraction may be missing.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let text = text.strip_suffix('Z')?;
    let (date, time) = text.split_once('T')?;
    let mut date = date.split('-').map(digits);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, millis) = match time.split_once('.') {
        Some((time, fraction)) if fraction.len() == 3 => (time, digits(fraction)?),
        Some(_) => return None,
        None => (time, 0),
    };
    let mut time = time.split(':').map(digits);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    if !in_range {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis))
}

/// Reads a number of ASCII digits only.
fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// Returns year, month and day of a day since 1970-01-01 in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day comes last, in eras of 400 years (146,097
/// days).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// Returns the days from 1970-01-01 to a day of the Gregorian calendar, not before it.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year / 400;
    let year_of_era = year % 400;
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times_are_written_as_the_calendar_says() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (1_800_000_000, "2027-01-15T08:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    proptest! {
        #[test]
        fn a_time_is_read_as_it_was_written(millis in 0_u64..253_402_300_799_000) {
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            prop_assert_eq!(parse_rfc3339(&rfc3339(time)), Some(time));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = parse_rfc3339(&text);
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "Z",
            "2027-01-15",
            "2027-01-15T08:00:00",
            "2027-13-15T08:00:00Z",
            "2027-01-15T24:00:00Z",
            "+027-01-15T08:00:00Z",
            "2027-01-15T08:00:00.1Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }
}
