FROM busybox
RUN <<EOF
echo a
echo b
EOF
RUN <<EOF
#!/usr/bin/env python3
print("hi")
EOF
RUN python3 <<EOF && cat <<-'X' > /x
print("$hi")
EOF
	x
	X
RUN <<-EOF
	chomped
		twice
EOF
