FROM busybox
WORKDIR /w/x
COPY ../a ./b/../c /d/ rel
COPY a .
COPY a ./
COPY a ..
COPY a /
COPY a b/
COPY ["with space", "/to here/"]
COPY *.txt dir?/[a-c]* /g/
