FROM node:14
WORKDIR /app-node
COPY . .
RUN npm install
ENTRYPOINT ["npm", "start"]
