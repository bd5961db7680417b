# check=skip=MaintainerDeprecated
FROM busybox
MAINTAINER Jane Doe <jane@example.com>
