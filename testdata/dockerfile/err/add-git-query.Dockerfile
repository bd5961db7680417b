FROM busybox
ADD https://e.com/a.git?foo=1 /
ADD --keep-git-dir=false https://e.com/a.git?keep-git-dir=1 /
