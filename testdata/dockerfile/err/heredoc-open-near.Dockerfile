FROM a
RUN <<EOT
apt-get update
if true; then echo; fi
EOF
COPPY a b
RUN <<EOT
text
  EOT
USER a
COPY <<file.txt /x
some text
more of it
EXPOSE x
