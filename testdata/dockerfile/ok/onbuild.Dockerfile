FROM busybox AS parent
ONBUILD COPY . /src
ONBUILD RUN <<EOF
make
EOF
ONBUILD RUN --mount=from=alpine,target=/a true

FROM parent AS child
RUN echo child

FROM child
RUN echo grandchild
