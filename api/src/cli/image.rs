//! `images`, `history`, `inspect`, `tag`, `rmi`, `image prune`.

use super::args::{
    HistoryArgs, ImagePruneArgs, ImagesArgs, InspectArgs, ListFormat, RemoveArgs, TagArgs,
};
use super::engine::Engine;
use super::print;
use crate::fault::Fault;
use crate::format::{ago, ellipsis, now, printable, short_id, size, table};
use crate::wire::{HistoryItem, ImageItem, RemovedItem};

/// Columns of an instruction in the history, as in Docker.
const CREATED_BY_WIDTH: usize = 45;

/// Stands for what an image does not have.
const NONE: &str = "<none>";

/// `rbuild images`.
pub(super) async fn images(args: ImagesArgs, engine: &Engine) -> Result<(), Fault> {
    let images = engine.images(&args.filter).await?;
    let rows: Vec<ImageRow> = images.iter().flat_map(ImageRow::of).collect();
    let rows: Vec<ImageRow> = rows
        .into_iter()
        .filter(|row| args.name.as_deref().is_none_or(|n| row.has_name(n)))
        .collect();
    print(&show_images(&rows, &args, now()))
}

/// One name of an image.
#[derive(Clone, Debug)]
struct ImageRow<'a> {
    repository: &'a str,
    tag: &'a str,
    digest: &'a str,
    image: &'a ImageItem,
}

impl<'a> ImageRow<'a> {
    fn of(image: &'a ImageItem) -> Vec<Self> {
        let digest_of = |repository: &str| {
            let found = image.repo_digests.iter().filter_map(|digest| digest.split_once('@'));
            found.filter(|(name, _)| *name == repository).map(|(_, digest)| digest).next()
        };
        let row = |name: &'a String| {
            let (repository, tag) = split_tag(name);
            Self { repository, tag, digest: digest_of(repository).unwrap_or(NONE), image }
        };
        let rows: Vec<Self> = image.repo_tags.iter().map(row).collect();
        if rows.is_empty() {
            return vec![Self { repository: NONE, tag: NONE, digest: NONE, image }];
        }
        rows
    }

    fn has_name(&self, name: &str) -> bool {
        let (repository, tag) = split_tag(name);
        self.repository == repository && (tag == NONE || self.tag == tag)
    }
}

fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, NONE),
    }
}

fn show_images(rows: &[ImageRow<'_>], args: &ImagesArgs, now: i64) -> String {
    let id = |row: &ImageRow<'_>| {
        if args.no_trunc { row.image.id.clone() } else { short_id(&row.image.id).to_owned() }
    };
    if args.quiet {
        return rows.iter().map(|row| id(row) + "\n").collect();
    }
    if args.format == ListFormat::Json {
        let json = |row: &ImageRow<'_>| {
            let value = serde_json::json!({
                "Repository": row.repository,
                "Tag": row.tag,
                "ID": id(row),
                "Digest": row.digest,
                "CreatedAt": timestamp(row.image.created),
                "CreatedSince": ago(row.image.created, now),
                "Size": size(row.image.size),
            });
            value.to_string() + "\n"
        };
        return rows.iter().map(json).collect();
    }
    let common = |row: &ImageRow<'_>| {
        let (created, size) = (ago(row.image.created, now), size(row.image.size));
        (printable(row.repository), printable(row.tag), id(row), created, size)
    };
    if args.digests {
        let cells = rows.iter().map(|row| {
            let (repository, tag, id, created, size) = common(row);
            [repository, tag, printable(row.digest), id, created, size]
        });
        let headings = ["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"];
        return table(headings, &cells.collect::<Vec<_>>());
    }
    let cells = rows.iter().map(|row| {
        let (repository, tag, id, created, size) = common(row);
        [repository, tag, id, created, size]
    });
    table(["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"], &cells.collect::<Vec<_>>())
}

/// `rbuild history`.
pub(super) async fn history(args: HistoryArgs, engine: &Engine) -> Result<(), Fault> {
    let rows = engine.history(&args.name).await?;
    print(&show_history(&rows, &args, now()))
}

fn show_history(rows: &[HistoryItem], args: &HistoryArgs, now: i64) -> String {
    let id = |row: &HistoryItem| {
        if args.no_trunc { row.id.clone() } else { short_id(&row.id).to_owned() }
    };
    let created_by = |row: &HistoryItem| {
        let text = printable(&row.created_by);
        if args.no_trunc { text } else { ellipsis(&text, CREATED_BY_WIDTH) }
    };
    if args.quiet {
        return rows.iter().map(|row| id(row) + "\n").collect();
    }
    if args.format == ListFormat::Json {
        let json = |row: &HistoryItem| {
            let value = serde_json::json!({
                "ID": id(row),
                "CreatedAt": timestamp(row.created),
                "CreatedSince": ago(row.created, now),
                "CreatedBy": created_by(row),
                "Size": size(row.size),
                "Comment": row.comment,
            });
            value.to_string() + "\n"
        };
        return rows.iter().map(json).collect();
    }
    let cells = rows.iter().map(|row| {
        let comment = printable(&row.comment);
        [id(row), ago(row.created, now), created_by(row), size(row.size), comment]
    });
    table(["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"], &cells.collect::<Vec<_>>())
}

/// `rbuild image prune`.
pub(super) async fn prune(args: ImagePruneArgs, engine: &Engine) -> Result<(), Fault> {
    let mut filters = args.filter;
    filters.push(("dangling".to_owned(), (!args.all).to_string()));
    let (removed, bytes) = engine.prune_images(&filters).await?;
    print(&(lines_of(&removed) + &format!("Total reclaimed space: {}\n", size(bytes))))
}

fn lines_of(removed: &[RemovedItem]) -> String {
    let lines = removed.iter().map(|item| match item {
        RemovedItem::Untagged(name) => format!("Untagged: {}\n", printable(name)),
        RemovedItem::Deleted(id) => format!("Deleted: {}\n", printable(id)),
    });
    lines.collect()
}

/// `rbuild inspect`: all that is found is printed, also when one name is unknown.
pub(super) async fn inspect(args: InspectArgs, engine: &Engine) -> Result<(), Fault> {
    let (mut found, mut missing) = (Vec::new(), None);
    for name in &args.names {
        match engine.inspect(name, args.platform.as_ref()).await {
            Ok(document) => found.push(document),
            Err(fault) => missing = missing.or(Some(fault)),
        }
    }
    let text = serde_json::to_string_pretty(&found).expect("documents are JSON");
    print(&(text + "\n"))?;
    missing.map_or(Ok(()), Err)
}

/// `rbuild tag`.
pub(super) async fn tag(args: TagArgs, engine: &Engine) -> Result<(), Fault> {
    engine.tag(args.source, args.target).await
}

/// `rbuild rmi`: the names that can be removed are, also when one is unknown.
pub(super) async fn remove(args: RemoveArgs, engine: &Engine) -> Result<(), Fault> {
    let mut failed = None;
    for name in &args.names {
        match engine.remove(name, args.force).await {
            Ok(items) => print(&lines_of(&items))?,
            Err(fault) => failed = failed.or(Some(fault)),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Writes Unix seconds as RFC 3339 in UTC.
fn timestamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn image(tags: &[&str], size: u64) -> ImageItem {
        ImageItem {
            id: format!("sha256:{}", "0123456789abcdef".repeat(4)),
            parent_id: String::new(),
            repo_tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            repo_digests: vec!["reg:5000/app@sha256:aa".to_owned()],
            created: 1_000_000,
            size,
            shared_size: -1,
            labels: BTreeMap::new(),
            containers: -1,
        }
    }

    fn listed(line: &str) -> String {
        let Command::Images(args) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("not a list of images");
        };
        let images = [image(&["reg:5000/app:1", "app:2"], 912_000_000), image(&[], 5)];
        let rows: Vec<ImageRow<'_>> = images.iter().flat_map(ImageRow::of).collect();
        show_images(&rows, &args, 1_000_000 + 7200)
    }

    #[test]
    fn images_have_dockers_columns() {
        let want = "\
REPOSITORY     TAG      IMAGE ID       CREATED       SIZE
reg:5000/app   1        0123456789ab   2 hours ago   912MB
app            2        0123456789ab   2 hours ago   912MB
<none>         <none>   0123456789ab   2 hours ago   5B
";
        assert_eq!(listed("rbuild images"), want);
        let want = "\
REPOSITORY     TAG      DIGEST      IMAGE ID       CREATED       SIZE
reg:5000/app   1        sha256:aa   0123456789ab   2 hours ago   912MB
app            2        <none>      0123456789ab   2 hours ago   912MB
<none>         <none>   <none>      0123456789ab   2 hours ago   5B
";
        assert_eq!(listed("rbuild images --digests"), want);
    }

    #[test]
    fn images_can_be_read_by_programs() {
        assert_eq!(listed("rbuild images -q"), "0123456789ab\n".repeat(3));
        let json = listed("rbuild images --format json --no-trunc");
        let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!(first["Repository"], "reg:5000/app");
        assert_eq!(first["CreatedAt"], "1970-01-12T13:46:40Z");
        assert_eq!(first["ID"].as_str().unwrap().len(), "sha256:".len() + 64);
    }

    #[test]
    fn names_choose_rows() {
        let image = image(&["reg:5000/app:1", "app:2"], 1);
        let rows = ImageRow::of(&image);
        let chosen = |name: &str| rows.iter().filter(|row| row.has_name(name)).count();
        assert_eq!(chosen("app"), 1);
        assert_eq!(chosen("app:2"), 1);
        assert_eq!(chosen("app:1"), 0);
        assert_eq!(chosen("reg:5000/app"), 1);
        assert_eq!(chosen("reg:5000/app:1"), 1);
    }

    #[test]
    fn history_has_dockers_columns() {
        let row = |id: &str, created_by: &str, size| HistoryItem {
            id: id.to_owned(),
            created: 1_000_000,
            created_by: created_by.to_owned(),
            size,
            tags: Vec::new(),
            comment: "buildkit.dockerfile.v0".to_owned(),
        };
        let id = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let long = "RUN /bin/sh -c npm install --global everything # buildkit";
        let rows = [row(&id, "CMD [\"sh\"]", 0), row("<missing>", long, 5_120_000)];
        let show = |line: &str| {
            let Command::History(args) = Cli::try_parse_from(line.split(' ')).unwrap().command
            else {
                panic!("not a history");
            };
            show_history(&rows, &args, 1_000_000 + 60)
        };
        let want = "\
IMAGE          CREATED              CREATED BY                                      SIZE     COMMENT
0123456789ab   About a minute ago   CMD [\"sh\"]                                      0B       buildkit.dockerfile.v0
<missing>      About a minute ago   RUN /bin/sh -c npm install --global everythi…   5.12MB   buildkit.dockerfile.v0
";
        assert_eq!(show("rbuild history x"), want);
        assert_eq!(show("rbuild history -q x"), "0123456789ab\n<missing>\n");
        assert!(show("rbuild history --no-trunc x").contains(long));
    }
}
