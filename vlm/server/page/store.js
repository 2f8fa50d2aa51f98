// The history: conversations with their pictures, in this browser only (IndexedDB).

const KEPT = 20; // conversations
const NAME = "rkvlm";
const SHELF = "conversations";

let opened;

function database() {
  opened ??= new Promise((done, refuse) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(SHELF, { keyPath: "id" });
    request.onsuccess = () => done(request.result);
    request.onerror = () => refuse(request.error);
  });
  return opened;
}

/** Run `work` on the shelf; its request's result once the transaction is through. */
async function transact(mode, work) {
  const transaction = (await database()).transaction(SHELF, mode);
  const request = work(transaction.objectStore(SHELF));
  return new Promise((done, refuse) => {
    transaction.oncomplete = () => done(request.result);
    transaction.onerror = transaction.onabort = () => refuse(transaction.error ?? request.error);
  });
}

/** Every conversation kept, the newest first. */
export async function all() {
  return (await transact("readonly", (shelf) => shelf.getAll())).reverse();
}

/** Keep a conversation: {id (a time), title, thumbnail, pictures, turns}. The oldest go, more where room is short. */
export async function put(conversation) {
  const write = () => transact("readwrite", (shelf) => shelf.put(conversation));
  try {
    await write();
  } catch (problem) {
    if (problem?.name !== "QuotaExceededError") throw problem;
    await trim(KEPT >> 2);
    await write();
  }
  await trim(KEPT);
}

async function trim(count) {
  const ids = await transact("readonly", (shelf) => shelf.getAllKeys());
  for (const id of ids.slice(0, Math.max(0, ids.length - count))) await remove(id);
}

export const remove = (id) => transact("readwrite", (shelf) => shelf.delete(id));

export const clear = () => transact("readwrite", (shelf) => shelf.clear());
