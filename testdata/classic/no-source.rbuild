400
{"message":"COPY none /: \"/none\": not found"}
