FROM busybox
ARG name=world
COPY <<EOF /hello
Hello $name
  "quotes" \$name \\
EOF
COPY <<'EOF' /raw
Hello $name
EOF
COPY <<-EOF file <<"other" /dir/
		tabs
	EOF
second
other
