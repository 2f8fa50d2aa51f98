// A file becomes a picture: shown, checked, made smaller where the server would refuse it.

const SIDES = [4096, 3072, 2048, 1536, 1024, 768, 512];
const READ = ["jpeg", "png", "webp", "gif", "bmp", "tiff"].map((kind) => `image/${kind}`);
const THUMBNAIL = 160;
const FORM_BYTES = 64 * 1024; // what the form takes beside the pictures

/**
 * A picture: {blob, name, url, width, height, thumbnail (a data URL)}. The last three are null for a kind that this
 * browser cannot show (HEIC in most): the server may read it still. Throws Error in words for a file that says it is
 * something else.
 */
export async function open(blob, name) {
  const url = URL.createObjectURL(blob);
  const image = await shown(url);
  if (!image && !blob.type.startsWith("image/")) {
    URL.revokeObjectURL(url);
    throw new Error(`${name} is not a picture. Choose a JPEG, PNG or WebP file.`);
  }
  if (!image) return { blob, name, url, width: null, height: null, thumbnail: null };
  const thumbnail = scaled(image, THUMBNAIL).toDataURL("image/jpeg", 0.8);
  return { blob, name, url, width: image.naturalWidth, height: image.naturalHeight, thumbnail };
}

/** Give back what showing a picture holds. */
export const close = (picture) => URL.revokeObjectURL(picture.url);

async function shown(url) {
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    return null;
  }
  return image.naturalWidth ? image : null;
}

/**
 * The pictures as they will be sent: as they are, unless one is over `image_bytes` or `pixels`, they are over
 * `body_bytes` together, or one is of a kind that this browser shows and the server does not read (HEIC in Safari).
 * Such a one is drawn anew as a JPEG and says so in `note`.
 */
export async function fitted(pictures, { image_bytes: most, body_bytes: body, pixels }) {
  const room = body - FORM_BYTES;
  const tight = pictures.reduce((sum, { blob }) => sum + blob.size, 0) > room;
  const share = tight ? Math.min(most, room / pictures.length) : most;
  return Promise.all(
    pictures.map((picture) => {
      const why = reason(picture, share, pixels);
      return why ? redrawn(picture, share, pixels, why) : picture;
    }),
  );
}

/** Why a picture cannot be sent as it is; null if it can, or if this browser cannot draw it: the server will say. */
function reason({ blob, width, height }, bytes, pixels) {
  if (width === null) return null;
  if (width * height > pixels) return "it has more pixels than the server takes";
  if (blob.size > bytes) return "the file is larger than the server takes";
  if (blob.type && !READ.includes(blob.type)) return "the server does not read this kind of file";
  return null;
}

async function redrawn(picture, bytes, pixels, why) {
  const image = await shown(picture.url);
  const longest = Math.max(picture.width, picture.height);
  for (const side of SIDES.filter((side, at) => at === 0 || side < longest)) {
    const canvas = scaled(image, side);
    if (canvas.width * canvas.height > pixels) continue;
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
    if (blob && blob.size <= bytes) {
      const note = `sent as a JPEG of ${canvas.width} × ${canvas.height}, because ${why}.`;
      return { ...picture, blob, name: `${picture.name.replace(/\.\w+$/, "")}.jpg`, note };
    }
  }
  return picture; // the server says what it takes
}

function scaled(image, side) {
  const factor = Math.min(1, side / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.naturalWidth * factor));
  canvas.height = Math.max(1, Math.round(image.naturalHeight * factor));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // a JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}
