400
{"message":"Dockerfile:2:6: COPY has no flag `--none` (it knows --from, --chown, --chmod, --link, --parents, --exclude)"}
