FROM busybox
ARG who=1000
COPY --chown=$who:users --chmod=0755 a b /dst/
COPY --chmod=u=rwX,go=rX a /a
COPY --link a /b
COPY --link --chown=1:1 a /c
COPY --link --chown=root a /d
COPY --parents a/./b/*.txt c/d /e/
COPY --exclude=*.md --exclude=!README.md . /f/
