//! Speed of the parser, beside dockerfile-parser's on the same text.
//!
//! `cargo bench -p frontend`; an aim stands in each line, and a run that misses one fails.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// A file as projects have them, without what dockerfile-parser refuses.
const ORDINARY: &str = r#"# The service
FROM node:20-bookworm AS build
WORKDIR /src
COPY package.json package-lock.json ./
ENV NODE_ENV=production CI="true" GREETING='hello world'
RUN apt-get update && apt-get install -y --no-install-recommends \
      ca-certificates curl git \
    # for native modules
      python3 make g++ \
 && rm -rf /var/lib/apt/lists/*
RUN npm ci --ignore-scripts
COPY . .
RUN npm run build
FROM node:20-bookworm-slim
COPY --from=build /src/dist /app
WORKDIR /app
ARG VERSION=dev
LABEL org.opencontainers.image.version=$VERSION
EXPOSE 3000
USER node
ENTRYPOINT ["node", "server.js"]
CMD ["--port", "3000"]
"#;

/// Returns the best of many runs.
fn best(mut run: impl FnMut()) -> Duration {
    let once = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..15).map(|_| once(&mut run)).min().unwrap_or_default()
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn main() {
    let large = ORDINARY.repeat((1 << 20) / ORDINARY.len());
    let lines = format!("FROM a\nRUN {}", "x \\\n".repeat(1 << 18));
    let speed = |text: &str, took: Duration| text.len() as f64 / 1e6 / took.as_secs_f64();
    let ours = best(|| drop(black_box(frontend::parse(black_box(&large)))));
    let theirs = best(|| drop(black_box(dockerfile_parser::Dockerfile::parse(black_box(&large)))));
    let continued = best(|| drop(black_box(frontend::parse(black_box(&lines)))));
    println!("ordinary, 1 MiB: {ours:?}, {:.1} MB/s", speed(&large, ours));
    println!("dockerfile-parser: {theirs:?}, {:.1} MB/s", speed(&large, theirs));
    println!("one instruction of 1 MiB: {continued:?}, {:.1} MB/s", speed(&lines, continued));
    assert!(ours < Duration::from_millis(100), "1 MiB must parse in under 100 ms");
    assert!(continued < Duration::from_millis(100), "1 MiB must parse in under 100 ms");
    assert!(ours * 2 < theirs, "the aim is twice the speed of dockerfile-parser");
}
