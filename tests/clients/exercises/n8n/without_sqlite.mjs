// Loaded before n8n. Its AI Agent loads sqlite3 without using it, and npm has no binary of that: it is an empty module.
import Module from 'node:module';

const load = Module._load;
Module._load = (request, ...others) => (request === 'sqlite3' ? {} : load(request, ...others));
