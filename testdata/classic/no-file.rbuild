400
{"message":"failed to read Dockerfile: open none: no such file\nname another file with -f"}
