//! `du`, `prune`, `images`, `rmi`.

use rbuild_api::moby::buildkit::v1::control_client::ControlClient;
use rbuild_api::moby::buildkit::v1::{DiskUsageRequest, PruneRequest, UsageRecord};
use rbuild_api::rbuild::v1::images_client::ImagesClient;
use rbuild_api::rbuild::v1::{Image, ListImagesRequest, RemoveImageRequest};
use rbuild_progress::render::bytes;
use tonic::transport::Channel;

use crate::cli::{DuArgs, ImagesArgs, PruneArgs};
use crate::errors::CommandError;
use crate::{spec, ui};

/// Shows what the cache holds.
pub(crate) async fn du(channel: Channel, args: &DuArgs) -> Result<(), CommandError> {
    let mut client = ControlClient::new(channel).max_decoding_message_size(crate::MAX_MESSAGE);
    let request = DiskUsageRequest { filter: args.filter.clone(), ..Default::default() };
    let records = client.disk_usage(request).await?.into_inner().record;
    if args.format == "json" {
        for record in &records {
            ui::print(&record_json(record).to_string());
        }
        return Ok(());
    }
    show(&records, args.verbose);
    let total = |keep: &dyn Fn(&UsageRecord) -> bool| -> i64 {
        records.iter().filter(|record| keep(record)).map(|record| record.size).sum()
    };
    ui::table(&[
        vec!["Reclaimable:".into(), bytes(total(&|record| !record.in_use))],
        vec!["Total:".into(), bytes(total(&|_| true))],
    ]);
    Ok(())
}

/// Removes what nothing uses.
pub(crate) async fn prune(channel: Channel, args: &PruneArgs) -> Result<(), CommandError> {
    let size = |text: &Option<String>| -> Result<i64, CommandError> {
        let Some(text) = text else { return Ok(0) };
        let bytes = spec::disk_size(text).and_then(|bytes| i64::try_from(bytes).ok());
        bytes.ok_or_else(|| {
            CommandError::usage(format!(
                "size `{text}`: expected a number with an optional unit, as in 512MB"
            ))
        })
    };
    let keep_duration = match &args.keep_duration {
        None => 0,
        Some(text) => duration_ns(text).ok_or_else(|| {
            CommandError::usage(format!("duration `{text}`: expected a form like 30m, 24h or 1h30m"))
        })?,
    };
    let request = PruneRequest {
        filter: args.filter.clone(),
        all: args.all,
        keep_duration,
        reserved_space: size(&args.keep_storage)?,
        max_used_space: size(&args.max_used_space)?,
        min_free_space: size(&args.min_free_space)?,
    };
    let mut client = ControlClient::new(channel);
    let mut stream = client.prune(request).await?.into_inner();
    let mut removed = Vec::new();
    while let Some(record) = stream.message().await? {
        removed.push(record);
    }
    show(&removed, args.verbose);
    ui::print(&format!("Total:  {}", bytes(removed.iter().map(|record| record.size).sum())));
    Ok(())
}

fn show(records: &[UsageRecord], verbose: bool) {
    if verbose {
        for record in records {
            let json = record_json(record);
            for (name, value) in json.as_object().into_iter().flatten() {
                ui::print(&format!(
                    "{name}:\t{}",
                    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
                ));
            }
            ui::print("");
        }
        return;
    }
    let mut rows = vec![["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED"].map(str::to_owned).to_vec()];
    for record in records {
        let mark = if record.mutable { "*" } else { "" };
        rows.push(vec![
            format!("{}{mark}", record.id),
            (!record.in_use).to_string(),
            bytes(record.size),
            record.last_used_at.map_or_else(|| "-".into(), |time| time.to_string()),
        ]);
    }
    ui::table(&rows);
}

fn record_json(record: &UsageRecord) -> serde_json::Value {
    serde_json::json!({
        "ID": record.id, "Parents": record.parents, "CreatedAt": record.created_at.map(|time| time.to_string()),
        "Mutable": record.mutable, "Reclaimable": !record.in_use, "Shared": record.shared, "Size": record.size,
        "Description": record.description, "UsageCount": record.usage_count,
        "LastUsedAt": record.last_used_at.map(|time| time.to_string()), "Type": record.record_type,
    })
}

/// Go's duration syntax: numbers with units, added up.
fn duration_ns(text: &str) -> Option<i64> {
    let mut total: f64 = 0.0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit_len] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3_600e9,
                "d" => 86_400e9,
                _ => return None,
            };
        rest = &rest[unit_len..];
    }
    #[allow(clippy::cast_possible_truncation, reason = "saturates")]
    Some(total as i64)
}

/// Lists the daemon's images.
pub(crate) async fn images(channel: Channel, args: &ImagesArgs) -> Result<(), CommandError> {
    let mut client = ImagesClient::new(channel).max_decoding_message_size(crate::MAX_MESSAGE);
    let images = client.list(ListImagesRequest {}).await.map_err(|status| needs_rbuildd(&status))?;
    let images = images.into_inner().images;
    if args.quiet {
        images.iter().for_each(|image| ui::print(&image.name));
    } else if args.format == "json" {
        images.iter().for_each(|image| ui::print(&image_json(image).to_string()));
    } else {
        let mut rows = vec![["NAME", "DIGEST", "SIZE", "CREATED"].map(str::to_owned).to_vec()];
        rows.extend(images.iter().map(|image| {
            let created = image.created_at.map_or_else(|| "-".into(), |time| time.to_string());
            let digest = image.digest.get(..19).unwrap_or(&image.digest).to_owned();
            vec![image.name.clone(), digest, bytes(image.size), created]
        }));
        ui::table(&rows);
    }
    Ok(())
}

fn image_json(image: &Image) -> serde_json::Value {
    serde_json::json!({
        "name": image.name, "digest": image.digest, "mediaType": image.media_type, "size": image.size,
        "createdAt": image.created_at.map(|time| time.to_string()),
    })
}

/// Removes images by name.
pub(crate) async fn remove_images(channel: Channel, names: &[String]) -> Result<(), CommandError> {
    let mut client = ImagesClient::new(channel);
    for name in names {
        let request = RemoveImageRequest { name: name.clone() };
        client.remove(request).await.map_err(|status| needs_rbuildd(&status))?;
        ui::print(&format!("removed {name}"));
    }
    Ok(())
}

fn needs_rbuildd(status: &tonic::Status) -> CommandError {
    let error = CommandError::from_status(status);
    match status.code() {
        tonic::Code::Unimplemented => {
            error.hint("this daemon is no rbuildd: it has no image store of its own")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(duration_ns("1h30m"), Some(5_400_000_000_000));
        assert_eq!(duration_ns("1.5s"), Some(1_500_000_000));
        for bad in ["", "5", "5x", "h"] {
            assert_eq!(duration_ns(bad), None, "{bad}");
        }
    }
}
